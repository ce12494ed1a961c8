/* All public headers in one C11 translation unit; each one alone is compiled by CMakeLists.txt, as C11 and as C++17. */
#include "detent/base.h"
#include "detent/encode.h"
#include "detent/fake_quantize.h"
#include "detent/observe.h"
#include "detent/quantize.h"
#include "detent/stochastic.h"

#if !defined(__STDC_VERSION__) || __STDC_VERSION__ < 201112L
#error "expected C11"
#endif

const char *status_text_through_c(detent_status status);

const char *status_text_through_c(detent_status status)
{
    return detent_status_text(status);
}
