#include "../ops/stochastic.h"

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(detent, CUDA, m) { detent_shim::register_stochastic<detent_shim::Cuda>(m); }
