// The devices that every op is tested on, and how tests bring numbers there and back.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/tensor.h"

namespace shadowkv::testing {

struct TestDevice {
  std::string name;
  std::unique_ptr<Device> (*make)();
  DType activations;
};

// The CPU, and the first GPU where this build and machine have one; base/cuda_device_test.cc says when not.
inline std::vector<TestDevice> test_devices() {
  std::vector<TestDevice> devices = {{"cpu", [] { return make_cpu_device({.threads = 2}); }, DType::f32}};
  if (cuda_device_count() > 0) devices.push_back({"cuda", [] { return make_cuda_device(); }, DType::bf16});
  return devices;
}

inline std::string name_of_device(const ::testing::TestParamInfo<TestDevice>& info) {
  return info.param.name;
}

// Owned numbers on a device.
struct Array {
  Buffer buffer;
  TensorView view;
};

inline TensorView shaped(void* data, DType dtype, const std::vector<int64_t>& shape) {
  TensorView view;
  view.data = static_cast<std::byte*>(data);
  view.dtype = dtype;
  view.rank = static_cast<int>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) view.shape[i] = shape[i];
  return view;
}

// `bytes` from host memory; shape and dtype must agree with them.
inline Array upload_bytes(Device& device, const void* from, DType dtype, const std::vector<int64_t>& shape) {
  Array array;
  const int64_t bytes = shaped(nullptr, dtype, shape).bytes();
  array.buffer = device.allocate(Tier::device, Purpose::activations, bytes);
  array.view = shaped(array.buffer.data(), dtype, shape);
  if (from != nullptr && bytes > 0) {
    device.compute().copy(array.buffer.data(), from, bytes);
    device.compute().synchronize();
  }
  return array;
}

template <typename T>
Array upload(Device& device, const std::vector<T>& numbers, const std::vector<int64_t>& shape) {
  return upload_bytes(device, numbers.data(), DTypeOf<T>::value, shape);
}

// float32 numbers rounded to dtype (float32 or bfloat16).
inline Array upload_as(Device& device, DType dtype, const std::vector<float>& numbers,
                       const std::vector<int64_t>& shape) {
  if (dtype == DType::f32) return upload(device, numbers, shape);
  std::vector<bf16> rounded;
  for (const float x : numbers) rounded.emplace_back(x);
  return upload(device, rounded, shape);
}

// Uninitialised numbers.
inline Array allocate(Device& device, DType dtype, const std::vector<int64_t>& shape) {
  return upload_bytes(device, nullptr, dtype, shape);
}

template <typename T>
std::vector<T> download(Device& device, const TensorView& view) {
  std::vector<T> numbers(static_cast<size_t>(view.elements()));
  if (numbers.empty()) return numbers;
  device.compute().copy(numbers.data(), view.as<T>(), view.bytes());
  device.compute().synchronize();
  return numbers;
}

// float32 or bfloat16 numbers as float32.
inline std::vector<float> download_floats(Device& device, const TensorView& view) {
  if (view.dtype == DType::f32) return download<float>(device, view);
  std::vector<float> numbers;
  for (const bf16 x : download<bf16>(device, view)) numbers.push_back(static_cast<float>(x));
  return numbers;
}

// Normally distributed numbers, the same on every run, already rounded to dtype.
inline std::vector<float> random_numbers(int64_t count, uint32_t seed, DType dtype = DType::f32,
                                         float deviation = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> numbers(static_cast<size_t>(count));
  for (float& x : numbers) {
    x = normal(generator);
    if (dtype == DType::bf16) x = static_cast<float>(bf16(x));
  }
  return numbers;
}

}  // namespace shadowkv::testing
