/* From statistics to a range, from a range to scale and zero_point, and the chain rule back. */
#ifndef DETENT_MATH_ENCODE_H
#define DETENT_MATH_ENCODE_H

#include "detent/base.h"
#include "fake_quantize.h"

#define DETENT_FORMULAS "encode.inl"
#include "for_each_real.h"

#endif
