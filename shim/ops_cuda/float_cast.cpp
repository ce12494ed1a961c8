#include "../ops/float_cast.h"

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(detent, CUDA, m) { detent_shim::register_float_cast<detent_shim::Cuda>(m); }
