// SPDX-License-Identifier: Apache-2.0
// Files of POSIX systems: whole reads and writes, and replacing a file in one step.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "gqa/core/shape.hpp"

namespace gqa::detail {

[[noreturn, gnu::noinline, gnu::cold]] inline void fail_on(const std::filesystem::path& path,
                                                           const char* what, int error) {
  throw std::system_error(error, std::generic_category(), std::string(what) + " " + path.string());
}

/// An open file, closed at the end. Its calls throw std::system_error naming the path.
class File {
 public:
  /// Does not wait for who would write to a pipe.
  File(std::filesystem::path path, int flags)
      : path_(std::move(path)), descriptor_(open(path_, flags | O_NONBLOCK)) {
    if (descriptor_ < 0) fail_on(path_, "cannot open", errno);
  }
  File(File&& other) noexcept
      : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
  File& operator=(File&&) = delete;
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  /// Without a check: less than 0 where it fails, with errno.
  static int open(const std::filesystem::path& path, int flags, ::mode_t mode = 0) {
    int descriptor = -1;
    do descriptor = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
  }
  /// One that is open already.
  static File of(std::filesystem::path path, int descriptor) { return {descriptor, std::move(path)}; }

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }

  struct ::stat status() const {
    struct ::stat status {};
    if (::fstat(descriptor_, &status) != 0) fail_on(path_, "cannot look at", errno);
    return status;
  }

  /// The size of a regular file.
  Index size() const {
    const struct ::stat is = status();
    if (S_ISDIR(is.st_mode)) fail_on(path_, "cannot read", EISDIR);
    if (!S_ISREG(is.st_mode)) fail_on(path_, "cannot read", EINVAL);
    return static_cast<Index>(is.st_size);
  }

  void seek(Index offset) {
    if (::lseek(descriptor_, static_cast<::off_t>(offset), SEEK_SET) < 0)
      fail_on(path_, "cannot seek in", errno);
  }

  /// All of the pieces, from where the file stands.
  void write(std::span<const std::span<const std::byte>> pieces) {
    const Index left = move_all(
        pieces, [](auto... to) { return ::writev(to...); }, "cannot write");
    if (left > 0) fail_on(path_, "cannot write", ENOSPC);
  }
  void write(std::span<const std::byte> bytes) { write(std::span(&bytes, 1)); }

  /// Fills the pieces, from where the file stands; how many bytes there were not.
  [[nodiscard]] Index read(std::span<const std::span<std::byte>> pieces) {
    return move_all(
        pieces, [](auto... to) { return ::readv(to...); }, "cannot read");
  }
  [[nodiscard]] Index read(std::span<std::byte> bytes) { return read(std::span(&bytes, 1)); }

  /// Until the bytes are where they outlive the machine.
  void flush() {
    while (::fsync(descriptor_) != 0)
      if (errno != EINTR) fail_on(path_, "cannot flush", errno);
  }

  /// What only closing tells. Linux closes also where it fails.
  void close() {
    if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) fail_on(path_, "cannot write", errno);
  }

 private:
  File(int descriptor, std::filesystem::path path) : path_(std::move(path)), descriptor_(descriptor) {}

  template <class Byte, class Call>
  Index move_all(std::span<const std::span<Byte>> pieces, Call&& call, const char* what) {
    std::vector<::iovec> todo;
    for (const std::span<Byte> piece : pieces)
      todo.push_back({const_cast<std::byte*>(piece.data()), piece.size()});
    std::size_t first = 0;
    while (first < todo.size()) {
      const ::ssize_t moved = call(descriptor_, todo.data() + first, static_cast<int>(todo.size() - first));
      if (moved < 0 && errno == EINTR) continue;
      if (moved < 0) fail_on(path_, what, errno);
      auto left = static_cast<std::size_t>(moved);
      if (left == 0 && todo[first].iov_len > 0) break;  // the end
      while (first < todo.size() && left >= todo[first].iov_len) left -= todo[first++].iov_len;
      if (left > 0) {
        todo[first].iov_base = static_cast<std::byte*>(todo[first].iov_base) + left;
        todo[first].iov_len -= left;
      }
    }
    Index missing = 0;
    for (; first < todo.size(); ++first) missing += static_cast<Index>(todo[first].iov_len);
    return missing;
  }

  std::filesystem::path path_;
  int descriptor_;
};

/// A file that is written under a name of its own beside `path` and takes that name when it is complete:
/// until then, and where anything fails, the file that has it stays as it is. A process that is killed leaves
/// `path`.PID-N.tmp behind.
class Replacement {
 public:
  /// Throws std::system_error, also for a path that names something else than a file.
  explicit Replacement(const std::filesystem::path& path) : path_(target(path)), file_(create(path_)) {}
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;
  ~Replacement() {
    if (!replaced_) ::unlink(file_.path().c_str());
  }

  File& file() { return file_; }

  /// Makes it the file of the path, for good. Where the last step alone fails, the flush of the directory
  /// that holds the name, it is there, and the error says so.
  void commit() {
    const std::filesystem::path parent = path_.has_parent_path() ? path_.parent_path() : ".";
    const File directory(parent, O_RDONLY | O_DIRECTORY);
    struct ::stat old {};
    if (::stat(path_.c_str(), &old) == 0) ::fchmod(file_.descriptor(), old.st_mode & 0777);
    file_.flush();
    file_.close();
    if (::rename(file_.path().c_str(), path_.c_str()) != 0) fail_on(path_, "cannot replace", errno);
    replaced_ = true;
    while (::fsync(directory.descriptor()) != 0) {
      if (errno == EINVAL || errno == ENOTSUP) break;  // not every file system can do that
      if (errno != EINTR) fail_on(path_, "replaced, but its directory not flushed:", errno);
    }
  }

 private:
  /// Where links lead, so that they stay.
  static std::filesystem::path target(std::filesystem::path path) {
    std::error_code error;
    if (std::filesystem::is_symlink(path, error)) path = std::filesystem::weakly_canonical(path);
    struct ::stat old {};
    if (::stat(path.c_str(), &old) == 0 && !S_ISREG(old.st_mode))
      fail_on(path, "cannot replace", S_ISDIR(old.st_mode) ? EISDIR : EINVAL);
    return path;
  }

  static File create(const std::filesystem::path& path) {
    static std::atomic<std::uint64_t> last{0};
    for (;;) {
      std::filesystem::path name = path;
      name += "." + std::to_string(::getpid()) + "-" + std::to_string(++last) + ".tmp";
      const int descriptor = File::open(name, O_RDWR | O_CREAT | O_EXCL, 0666);
      if (descriptor >= 0) return File::of(std::move(name), descriptor);
      if (errno != EEXIST) fail_on(name, "cannot create", errno);  // left by a process of this number
    }
  }

  std::filesystem::path path_;
  File file_;
  bool replaced_ = false;
};

}  // namespace gqa::detail
