#include "../ops/observe.h"

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(detent, CUDA, m) { detent_shim::register_observe<detent_shim::Cuda>(m); }
