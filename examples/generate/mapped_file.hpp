// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace generate {

/// Whether a path names the program's standard input, as `-` does by convention.
inline bool is_standard_input(const std::filesystem::path& path) {
  return path == "-" || path == "/dev/stdin" || path == "/dev/fd/0" || path == "/proc/self/fd/0";
}

/// All bytes of a file: mapped read-only, so that pages are read when touched, or read to the end where there
/// is nothing to map (a pipe). Standard input is read from where it stands. Throws std::system_error naming
/// the file.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path) {
    const bool standard_input = is_standard_input(path);
    const std::string name = standard_input ? "standard input" : path.string();
    const int file = standard_input ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(errno, name);
    struct ::stat status {};
    int error = ::fstat(file, &status) == 0 ? 0 : errno;
    // A device may have no end; what the user connects to standard input is the user's to end.
    if (error == 0 && (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)) && !standard_input) error = EINVAL;
    if (error == 0) {
      const bool from_the_start = S_ISREG(status.st_mode) && ::lseek(file, 0, SEEK_CUR) == 0;
      // The size of a file in /proc is 0 whatever it holds.
      error = from_the_start && status.st_size > 0 ? map(file, static_cast<std::size_t>(status.st_size))
                                                   : read_all(file);
    }
    if (!standard_input) ::close(file);
    if (error != 0) fail(error, name);
  }
  MappedFile(MappedFile&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        read_(std::move(other.read_)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(size_, other.size_);
    std::swap(read_, other.read_);
    return *this;
  }
  ~MappedFile() {
    if (address_ != nullptr) ::munmap(address_, size_);
  }

  std::span<const std::byte> bytes() const {
    if (address_ == nullptr) return read_;
    return {static_cast<const std::byte*>(address_), size_};
  }

  /// Gives the memory of some of them back where they are mapped: read again, they come from the file again.
  void forget(std::span<const std::byte> piece) const {
    if (address_ == nullptr) return;
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = (reinterpret_cast<std::uintptr_t>(piece.data()) + page - 1) / page * page;
    const auto end = reinterpret_cast<std::uintptr_t>(piece.data() + piece.size()) / page * page;
    if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }

 private:
  [[noreturn]] static void fail(int error, const std::string& name) {
    throw std::system_error(error, std::generic_category(), "cannot read " + name);
  }

  // Both return an error number, 0 for none.
  int map(int file, std::size_t size) {
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    if (address == MAP_FAILED) return errno;
    address_ = address;
    size_ = size;
    return 0;
  }

  int read_all(int file) {
    constexpr std::size_t piece = std::size_t{1} << 16;
    for (std::size_t size = 0;;) {
      if (read_.size() - size < piece) read_.resize(std::max(2 * read_.size(), size + piece));
      const ::ssize_t count = ::read(file, read_.data() + size, read_.size() - size);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return errno;
      size += static_cast<std::size_t>(count);
      if (count == 0) {
        read_.resize(size);
        return 0;
      }
    }
  }

  void* address_ = nullptr;
  std::size_t size_ = 0;
  std::vector<std::byte> read_;
};

}  // namespace generate
