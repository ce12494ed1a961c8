/* DETENT_HD: a formula that is inlined wherever it stands, on the CPU and on the device. */
#ifndef DETENT_MATH_HOST_DEVICE_H
#define DETENT_MATH_HOST_DEVICE_H

#ifdef __CUDACC__
#define DETENT_HD __host__ __device__ __forceinline__
#else
#define DETENT_HD inline __attribute__((always_inline))
#endif

#endif
