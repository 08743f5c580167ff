// SPDX-License-Identifier: Apache-2.0
// Whatever fails while a file is written leaves the one that was there. The system's calls are replaced by
// ones that fail, stop short or kill the process.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdarg>

#include "gqa/kv/file.hpp"
#include "kv/file_case.hpp"

namespace {

/// What befalls the calls between arm() and disarm().
struct {
  int calls_left = -1;  // until one is hit; -1: none is
  int error = 0;        // that it fails with; 0: the process is killed before it
  bool hit = false;
  std::size_t most_bytes = 0;  // that a call moves; 0: all
  const char* name = "";       // of the call that was hit
} fault;

bool is_hit(const char* name) {
  if (fault.calls_left < 0 || fault.calls_left-- > 0) return false;
  fault.hit = true;
  fault.name = name;
  if (fault.error == 0) ::raise(SIGKILL);
  errno = fault.error;
  return true;
}

}  // namespace

extern "C" {
int open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const unsigned mode = (flags & O_CREAT) != 0 ? va_arg(list, unsigned) : 0;
  va_end(list);
  return is_hit("open") ? -1 : static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}
int close(int file) {
  const auto result = static_cast<int>(::syscall(SYS_close, file));
  return is_hit("close") ? -1 : result;
}
ssize_t writev(int file, const struct iovec* pieces, int count) {
  if (is_hit("writev")) return -1;
  if (fault.most_bytes == 0) return ::syscall(SYS_writev, file, pieces, count);
  return ::syscall(SYS_write, file, pieces[0].iov_base, std::min(pieces[0].iov_len, fault.most_bytes));
}
ssize_t readv(int file, const struct iovec* pieces, int count) {
  if (is_hit("readv")) return -1;
  if (fault.most_bytes == 0) return ::syscall(SYS_readv, file, pieces, count);
  return ::syscall(SYS_read, file, pieces[0].iov_base, std::min(pieces[0].iov_len, fault.most_bytes));
}
int fsync(int file) { return is_hit("fsync") ? -1 : static_cast<int>(::syscall(SYS_fsync, file)); }
int rename(const char* from, const char* to) noexcept {
  return is_hit("rename") ? -1 : static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
}

namespace gqa {
namespace {

using test::Bytes;
using test::cache_of;
using test::contents;
using test::Folder;
using test::with_tokens;

/// Small: a header of 4096 bytes and two sections of 4096 or 8192.
constexpr test::FileShape small = {.layers = 2, .heads = 1, .dim = 3, .value_dim = 2, .capacity = 128};

/// A save over the file `old`, of which call `i` is hit.
class Saving : public ::testing::Test {
 protected:
  Saving() {
    save(old_, path_);
    old_bytes_ = test::read_bytes(path_);
    const auto other = folder_ / "other";
    save(new_, other);
    new_bytes_ = test::read_bytes(other);
    std::filesystem::remove(other);
  }

  Folder folder_;
  std::filesystem::path path_ = folder_ / "cache";
  KVCache<float> old_ = with_tokens(cache_of<float>(small), 35, 1),
                 new_ = with_tokens(cache_of<float>(small), 99, 2);
  Bytes old_bytes_, new_bytes_;
};

TEST_F(Saving, ReadAgainByCallsThatFailOrStopShort) {
  auto cache = with_tokens(cache_of<float>(small), 9, 2);
  const auto before = contents(cache);
  for (int i = 0;; ++i) {
    fault = {.calls_left = i, .error = EIO};
    bool thrown = false;
    try {
      restore(cache, path_);
    } catch (const std::system_error& error) {
      thrown = true;
      EXPECT_EQ(error.code().value(), EIO);
      EXPECT_NE(std::string(error.what()).find(path_.string()), std::string::npos);
    }
    const std::string name = fault.name;
    fault = {};
    if (!thrown) {
      EXPECT_EQ(i, 5) << "open, 2 of the header, 1 of each section";
      EXPECT_EQ(name, "close");
      break;
    }
    EXPECT_TRUE(contents(cache) == before);
  }
  for (const std::size_t most : {1u, 7u, 4095u}) {
    fault = {.most_bytes = most};
    auto other = cache_of<float>(small);
    restore(other, path_);
    fault = {};
    EXPECT_TRUE(contents(other) == contents(old_)) << most;
  }
}

TEST_F(Saving, ThatFailsAtAnyCall) {
  std::vector<std::string> names;
  for (int i = 0; i < 100; ++i) {
    save(old_, path_);
    fault = {.calls_left = i, .error = ENOSPC};
    std::string message;
    try {
      save(new_, path_);
    } catch (const std::system_error& error) {
      message = error.what();
      EXPECT_EQ(error.code().value(), ENOSPC);
      EXPECT_NE(message.find(folder_.path().string()), std::string::npos) << message;
    }
    const bool hit = fault.hit;
    const std::string name = fault.name;
    fault = {};
    if (!hit) break;
    names.push_back(name);
    const Bytes is = test::read_bytes(path_);
    // After the rename it is the new one, whole.
    const bool renamed = std::count(names.begin(), names.end() - 1, "rename") > 0;
    EXPECT_TRUE(is == (renamed ? new_bytes_ : old_bytes_)) << name << ", call " << i;
    // Closing the directory may fail: nothing is lost by that.
    EXPECT_TRUE(!message.empty() || (renamed && name == "close")) << name << ", call " << i;
    EXPECT_EQ(folder_.num_files(), 1u) << name << ", call " << i;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"open", "writev", "writev", "writev", "writev", "writev", "open",
                                             "fsync", "close", "rename", "fsync", "close"}));
}

TEST_F(Saving, ThatIsInterruptedAtAnyCallGoesOn) {
  for (int i = 0; i < 100; ++i) {
    save(old_, path_);
    fault = {.calls_left = i, .error = EINTR};
    std::string thrown;
    try {
      save(new_, path_);
    } catch (const std::system_error& error) {
      thrown = error.what();
    }
    const bool hit = fault.hit;
    const std::string name = fault.name;
    fault = {};
    if (!hit) break;
    if (name == "rename") continue;  // is never interrupted
    EXPECT_EQ(thrown, "") << name;
    EXPECT_TRUE(test::read_bytes(path_) == new_bytes_) << name;
  }
}

TEST_F(Saving, InSmallSteps) {
  for (const std::size_t most : {1u, 7u, 4097u}) {
    save(old_, path_);
    fault = {.most_bytes = most};
    save(new_, path_);
    fault = {};
    EXPECT_TRUE(test::read_bytes(path_) == new_bytes_) << most;
  }
}

TEST_F(Saving, ThatIsKilledAtAnyCall) {
  int killed = 0;
  for (int i = 0; i < 100; ++i) {
    save(old_, path_);
    const ::pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      fault = {.calls_left = i, .error = 0};
      save(new_, path_);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      EXPECT_TRUE(test::read_bytes(path_) == new_bytes_);
      break;
    }
    ASSERT_EQ(WTERMSIG(status), SIGKILL);
    ++killed;
    // Calls 0 to 9 lead to the rename, of which 1 to 5 write.
    EXPECT_TRUE(test::read_bytes(path_) == (i <= 9 ? old_bytes_ : new_bytes_)) << "call " << i;
    auto cache = cache_of<float>(small);
    restore(cache, path_);
    EXPECT_EQ(cache.size(), i <= 9 ? 35 : 99);
    // What the killed one left has a name of its own, which a save of later does not stumble over.
    EXPECT_LE(folder_.num_files(), 2u);
    for (const auto& file : std::filesystem::directory_iterator(folder_.path()))
      if (file.path() != path_) {
        EXPECT_EQ(file.path().extension(), ".tmp");
        if (i <= 5) {
          EXPECT_THROW(restore(cache, file.path()), format_error) << "half-written, call " << i;
        }
        std::filesystem::remove(file);
      }
  }
  EXPECT_EQ(killed, 12);
}

TEST_F(Saving, OverWhatAKilledProcessLeft) {
  // One of this number, which was the first to count.
  for (int i = 0; i < 100; ++i)
    test::write_bytes(
        folder_ / ("cache." + std::to_string(::getpid()) + "-" + std::to_string(i) + ".tmp").c_str(), {1});
  save(new_, path_);
  EXPECT_TRUE(test::read_bytes(path_) == new_bytes_);
  EXPECT_EQ(folder_.num_files(), 101u);
}

TEST_F(Saving, ToAFullDisk) {
  const auto disk = folder_ / "disk";
  std::filesystem::create_directory(disk);
  if (::mount("gqa", disk.c_str(), "tmpfs", 0, "size=64k") != 0)
    GTEST_SKIP() << "no tmpfs: " << std::strerror(errno);
  const auto path = disk / "cache";
  save(old_, path);
  const auto large = with_tokens(cache_of<float>({.heads = 8, .dim = 64, .value_dim = 64}), 100, 1);
  std::error_code code;
  std::string message;
  try {
    save(large, path);
  } catch (const std::system_error& error) {
    code = error.code();
    message = error.what();
  }
  const Bytes is = test::read_bytes(path);
  const auto files = std::distance(std::filesystem::directory_iterator(disk), {});
  ::umount(disk.c_str());
  EXPECT_EQ(code, std::errc::no_space_on_device);
  EXPECT_NE(message.find(path.string()), std::string::npos) << message;
  EXPECT_TRUE(is == old_bytes_);
  EXPECT_EQ(files, 1);
}

TEST_F(Saving, BeyondTheLimitOfAFile) {
  struct ::rlimit limit {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const struct ::rlimit lower { 5000, limit.rlim_max };
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &lower), 0);
  std::error_code code;
  try {
    save(new_, path_);
  } catch (const std::system_error& error) {
    code = error.code();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(code, std::errc::file_too_large);
  EXPECT_TRUE(test::read_bytes(path_) == old_bytes_);
  EXPECT_EQ(folder_.num_files(), 1u);
}

}  // namespace
}  // namespace gqa
