#include "../ops/fake_quantize_many.h"

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(detent, CUDA, m) { detent_shim::register_fake_quantize_many<detent_shim::Cuda>(m); }
