// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>

namespace generate {

/// A whole file mapped read-only; pages are read when touched. Throws std::system_error naming the file.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(errno, path);
    struct ::stat status {};
    int error = ::fstat(file, &status) == 0 ? 0 : errno;
    if (error == 0 && !S_ISREG(status.st_mode)) error = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
    if (error == 0 &&
        status.st_size > 0) {  // an empty mapping is an error to mmap; an empty file is not one to us
      size_ = static_cast<std::size_t>(status.st_size);
      void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
      if (address == MAP_FAILED) {
        error = errno;
      } else {
        data_ = static_cast<const std::byte*>(address);
      }
    }
    ::close(file);
    if (error != 0) fail(error, path);
  }
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  [[noreturn]] static void fail(int error, const std::filesystem::path& path) {
    throw std::system_error(error, std::generic_category(), "cannot read " + path.string());
  }

  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace generate
