#include "../ops/quantize.h"

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(detent, CUDA, m) { detent_shim::register_quantize<detent_shim::Cuda>(m); }
