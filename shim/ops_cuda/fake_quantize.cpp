#include "../ops/fake_quantize.h"

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(detent, CUDA, m) { detent_shim::register_fake_quantize<detent_shim::Cuda>(m); }
