// A program without Python that runs a TorchScript module which calls detent's operators.
//
//     detent_host MODULE INPUT OUTPUT [GRADIENTS] LIBRARY...
//
//   MODULE     what torch.jit.save wrote
//   INPUT      a float32 tensor file
//   OUTPUT     where module(input) goes
//   GRADIENTS  a folder name ending in '/': sum(output) is differentiated, and the gradient of the input and of every
//              parameter that requires one goes to <folder>/<name>.bin (the folder exists)
//   LIBRARY    paths ending in .so, loaded in this order before the module is
//
// A tensor file is little-endian: int64 rank, int64 sizes, float32 values.
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <torch/script.h>

namespace {

at::Tensor read_tensor(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  int64_t rank = 0;
  if (!file.read(reinterpret_cast<char *>(&rank), sizeof rank) || rank < 0 || rank > 8) {
    throw std::runtime_error(path + ": no tensor file");
  }
  std::vector<int64_t> sizes(static_cast<size_t>(rank));
  file.read(reinterpret_cast<char *>(sizes.data()), static_cast<std::streamsize>(sizes.size() * sizeof(int64_t)));
  at::Tensor tensor = at::empty(sizes, at::kFloat);
  if (!file.read(static_cast<char *>(tensor.data_ptr()), static_cast<std::streamsize>(tensor.nbytes()))) {
    throw std::runtime_error(path + ": shorter than its sizes say");
  }
  return tensor;
}

void write_tensor(const at::Tensor &given, const std::string &path) {
  const at::Tensor tensor = given.detach().to(at::kFloat).contiguous();
  std::ofstream file(path, std::ios::binary);
  const int64_t rank = tensor.dim();
  file.write(reinterpret_cast<const char *>(&rank), sizeof rank);
  file.write(reinterpret_cast<const char *>(tensor.sizes().data()),
             static_cast<std::streamsize>(rank * sizeof(int64_t)));
  file.write(static_cast<const char *>(tensor.data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

bool ends_with(const std::string &text, const char *end) {
  const size_t length = std::strlen(end);
  return text.size() >= length && text.compare(text.size() - length, length, end) == 0;
}

void write_gradients(torch::jit::Module &module, const at::Tensor &input, const at::Tensor &output,
                     const std::string &folder) {
  output.sum().backward();
  write_tensor(input.grad(), folder + "input.bin");
  for (const auto &parameter : module.named_parameters()) {
    if (parameter.value.grad().defined()) write_tensor(parameter.value.grad(), folder + parameter.name + ".bin");
  }
}

int run(const std::vector<std::string> &arguments) {
  std::string gradients;
  std::vector<std::string> paths;
  for (const std::string &argument : arguments) {
    if (ends_with(argument, ".so")) {
      // Global: the module's operators are looked up in the whole process.
      if (dlopen(argument.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
    } else if (ends_with(argument, "/")) {
      gradients = argument;
    } else {
      paths.push_back(argument);
    }
  }
  if (paths.size() != 3) throw std::runtime_error("usage: detent_host MODULE INPUT OUTPUT [GRADIENTS/] LIBRARY...");
  torch::jit::Module module = torch::jit::load(paths[0]);
  at::Tensor input = read_tensor(paths[1]);
  input.requires_grad_(!gradients.empty());
  const at::Tensor output = module.forward({input}).toTensor();
  write_tensor(output, paths[2]);
  if (!gradients.empty()) write_gradients(module, input, output, gradients);
  return 0;
}

}  // namespace

int main(int count, char **values) {
  try {
    return run(std::vector<std::string>(values + 1, values + count));
  } catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
