// The exceptions that every part of the library throws. Messages are whole sentences: what was asked,
// what was found, what to do. Library code neither prints nor exits; apps/exit_code.cc maps these types
// to exit codes.
#pragma once

#include <stdexcept>
#include <string>

// Everything public.
namespace shadowkv {

// Base of everything the library throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The caller's input cannot be used: a bad option, prompt, file or request.
class InvalidInput : public Error {
 public:
  using Error::Error;
};

// A memory tier has no room for what was asked; the message carries both numbers.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

// As many requests wait as may; the caller can try again later.
class Busy : public Error {
 public:
  using Error::Error;
};

// A device (GPU, driver, file system, network) failed underneath a valid request.
class DeviceFailure : public Error {
 public:
  using Error::Error;
};

// The caller asked to stop (Ctrl-C, a cancelled request).
class Interrupted : public Error {
 public:
  using Error::Error;
};

}  // namespace shadowkv
