/* Includes the file DETENT_FORMULAS once with real = float and once with real = double, so that a formula is written
 * once. In C the two get the suffixes _f32 and _f64; in CUDA C++ functions are overloads and keep the plain name
 * (DETENT_REAL), while types keep the suffix (DETENT_REAL_TYPE).
 * No include guard: each family's header includes this once. */
#include "host_device.h"

/* The double form of a formula, from code that is written once. */
#ifdef __cplusplus
#define DETENT_F64_OF(name) name
#else
#define DETENT_F64_OF(name) name##_f64
#endif

#define real float
#define DETENT_RINT rintf
#define DETENT_FLOOR floorf
#define DETENT_FABS fabsf
#define DETENT_REAL_TYPE(name) name##_f32
#ifdef __cplusplus
#define DETENT_REAL(name) name
#else
#define DETENT_REAL(name) name##_f32
#endif
#include DETENT_FORMULAS
#undef real
#undef DETENT_RINT
#undef DETENT_FLOOR
#undef DETENT_FABS
#undef DETENT_REAL
#undef DETENT_REAL_TYPE

#define real double
#define DETENT_RINT rint
#define DETENT_FLOOR floor
#define DETENT_FABS fabs
#define DETENT_REAL_TYPE(name) name##_f64
#ifdef __cplusplus
#define DETENT_REAL(name) name
#else
#define DETENT_REAL(name) name##_f64
#endif
#include DETENT_FORMULAS
#undef real
#undef DETENT_RINT
#undef DETENT_FLOOR
#undef DETENT_FABS
#undef DETENT_REAL
#undef DETENT_REAL_TYPE

#undef DETENT_FORMULAS
