/* Gradients of quantize and dequantize alone, one element. Their forward is math/fake_quantize.inl. */
#ifndef DETENT_MATH_QUANTIZE_H
#define DETENT_MATH_QUANTIZE_H

#include "fake_quantize.h"

#define DETENT_FORMULAS "quantize.inl"
#include "for_each_real.h"

#endif
