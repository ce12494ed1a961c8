#include "../ops/encode.h"

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(detent, CUDA, m) { detent_shim::register_encode<detent_shim::Cuda>(m); }
