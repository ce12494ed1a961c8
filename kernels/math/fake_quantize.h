/* The whole truth about fake-quantizing one element: math/fake_quantize.inl, for float and for double. */
#ifndef DETENT_MATH_FAKE_QUANTIZE_H
#define DETENT_MATH_FAKE_QUANTIZE_H

#include <math.h>

#define DETENT_FORMULAS "fake_quantize.inl"
#include "for_each_real.h"

#endif
