#include "../ops/mask.h"

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(detent, CUDA, m) { detent_shim::register_mask<detent_shim::Cuda>(m); }
