#include "../ops/block_cast.h"

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(detent, CUDA, m) { detent_shim::register_block_cast<detent_shim::Cuda>(m); }
