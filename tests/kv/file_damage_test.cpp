// SPDX-License-Identifier: Apache-2.0
// Files that are damaged, lie or end too early are refused, and whatever fails while a file is written leaves
// the one that was there. The system's calls are replaced by ones that fail, stop short or kill the process.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <limits>
#include <new>

#include "gqa/kv/file.hpp"
#include "gqa/kv/mapped_prefix.hpp"
#include "kv/file_case.hpp"
#include "support/message_of.hpp"
#include "support/sanitizers.hpp"

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

std::int64_t allocations_left = -1;  // until one fails; -1: none does

void* allocate(std::size_t size, std::size_t align) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  void* p = std::aligned_alloc(align, (size + align) / align * align);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) { return allocate(size, 16); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t align) {
  return allocate(size, static_cast<std::size_t>(align));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

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
using test::message_of;
using test::with_tokens;

/// Small: a header of 4096 bytes and two sections of 4096 or 8192.
constexpr test::FileShape small = {.layers = 2, .heads = 1, .dim = 3, .value_dim = 2, .capacity = 128};

template <class T>
class FileDamage : public ::testing::Test {
 protected:
  FileDamage() {
    save(with_tokens(cache_of<T>(small), 35, 1), path_);
    bytes_ = test::read_bytes(path_);
    cache_ = with_tokens(cache_of<T>(small), 9, 2);
    before_ = contents(cache_);
  }

  /// What restore() says of the file as it is. The cache stays as it was.
  std::string refusal() {
    const std::string message = message_of<format_error>([&] { restore(cache_, path_); });
    EXPECT_EQ(cache_.size(), 9);
    if (cache_.size() != 9) cache_ = with_tokens(cache_of<T>(small), 9, 2);
    return message;
  }
  void expect_unchanged() { EXPECT_TRUE(contents(cache_) == before_); }
  bool is_restored() {
    auto cache = cache_of<T>(small);
    restore(cache, path_);
    return contents(cache) == contents(with_tokens(cache_of<T>(small), 35, 1));
  }

  Folder folder_;
  std::filesystem::path path_ = folder_ / "cache";
  Bytes bytes_;
  KVCache<T> cache_ = cache_of<T>(small);
  std::vector<Bytes> before_;
};
using Scalars = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(FileDamage, Scalars);

TYPED_TEST(FileDamage, CutAtEveryByte) {
  for (Index size = std::ssize(this->bytes_) - 1; size >= 0; --size) {
    ASSERT_EQ(::truncate(this->path_.c_str(), size), 0);
    ASSERT_NE(this->refusal(), "nothing thrown") << size;
    ASSERT_THROW((void)describe_file(this->path_), format_error) << size;
    ASSERT_THROW(MappedPrefix<TypeParam>(this->path_, {.verify = false}), format_error) << size;
  }
  this->expect_unchanged();
}

TYPED_TEST(FileDamage, Longer) {
  for (const std::size_t more : {1u, 4095u, 4096u, 100000u}) {
    Bytes longer = this->bytes_;
    longer.resize(longer.size() + more);
    test::write_bytes(this->path_, longer);
    EXPECT_NE(this->refusal().find("header, byte 48: the file had " + std::to_string(this->bytes_.size())),
              std::string::npos)
        << more;
  }
}

TYPED_TEST(FileDamage, FlippedAtEveryBitOfTheHeader) {
  const detail::File file(this->path_, O_RDWR);
  for (std::size_t i = 0; i < 4096; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      const auto flipped = static_cast<unsigned char>(this->bytes_[i] ^ (1u << bit));
      ASSERT_EQ(::pwrite(file.descriptor(), &flipped, 1, static_cast<off_t>(i)), 1);
      const std::string message = this->refusal();
      ASSERT_EQ(message.rfind(this->path_.string() + ": header, byte", 0), 0u) << i << ": " << message;
      if (bit != static_cast<int>(i % 8)) continue;
      ASSERT_THROW((void)describe_file(this->path_), format_error) << i;
      ASSERT_THROW(MappedPrefix<TypeParam>(this->path_, {.verify = false}), format_error) << i;
    }
    ASSERT_EQ(::pwrite(file.descriptor(), &this->bytes_[i], 1, static_cast<off_t>(i)), 1);
  }
  this->expect_unchanged();
  EXPECT_TRUE(this->is_restored());
}

TYPED_TEST(FileDamage, FlippedAtABitOfEveryByteOfTheBody) {
  const detail::File file(this->path_, O_RDWR);
  const std::size_t section = (this->bytes_.size() - 4096) / 2;
  for (std::size_t i = 4096; i < this->bytes_.size(); ++i) {
    const auto flipped = static_cast<unsigned char>(this->bytes_[i] ^ (1u << (i % 8)));
    ASSERT_EQ(::pwrite(file.descriptor(), &flipped, 1, static_cast<off_t>(i)), 1);
    const std::size_t layer = (i - 4096) / section, begin = 4096 + layer * section;
    ASSERT_EQ(this->refusal(), this->path_.string() + ": layer " + std::to_string(layer) + ", bytes " +
                                   std::to_string(begin) + " to " + std::to_string(begin + section) +
                                   ": its checksum differs");
    ASSERT_THROW(MappedPrefix<TypeParam>(this->path_), format_error) << i;
    ASSERT_NO_THROW(MappedPrefix<TypeParam>(this->path_, {.verify = false})) << "not asked to look there";
    ASSERT_EQ(::pwrite(file.descriptor(), &this->bytes_[i], 1, static_cast<off_t>(i)), 1);
  }
  this->expect_unchanged();
  EXPECT_TRUE(this->is_restored());
}

/// Its checksum holds, so that all else is looked at.
void sign(Bytes& bytes) {
  std::uint64_t size;
  std::memcpy(&size, bytes.data() + 40, 8);
  if (size < 8 || size > bytes.size()) size = 4096;
  const std::uint64_t sum = detail::checksum_of(std::as_bytes(std::span(bytes).first(size - 8)));
  std::memcpy(bytes.data() + size - 8, &sum, 8);
}

TYPED_TEST(FileDamage, ALyingHeader) {
  constexpr auto most = std::numeric_limits<std::int64_t>::max();
  const std::int64_t lies[] = {0,        1,     2,       5,         64,        129,       4096,
                               8192,     12289, 1 << 16, 1LL << 31, 1LL << 32, most / 8,  most,
                               most - 1, -1,    -64,     most / 4,  most / 64, LLONG_MIN, most - 4095};
  int refused = 0;
  [[maybe_unused]] volatile unsigned char first = 0;
  // Each number of prefix and records, and the zeros after them.
  for (std::size_t at = 0; at < 64 + 2 * 120 + 16; at += at < 40 ? 4 : 8) {
    for (const std::int64_t lie : lies) {
      Bytes lying = this->bytes_;
      std::memcpy(lying.data() + at, &lie, at < 40 ? 4 : 8);
      if (lying == this->bytes_) continue;
      const bool of_range = at >= 64 && at < 304 && (at - 64) % 120 == 40;
      if (of_range && lie >= 1 && lie <= 64) continue;  // as many tiles: a file of so many tokens
      sign(lying);
      test::write_bytes(this->path_, lying);
      EXPECT_NE(this->refusal(), "nothing thrown") << lie << " at byte " << at;
      refused += 1;
      // What is not the cache's business is found, or it is harmless to read.
      try {
        const MappedPrefix<TypeParam> mapped(this->path_, {.verify = false});
        for (Index i = 0; i < mapped.num_layers(); ++i) {
          const auto view = mapped.layer(i);
          for (const Range r : view.retained(0))
            if (!r.empty())
              first =
                  *static_cast<const unsigned char*>(view.tile(0, 0, {r.begin, r.begin + 1}, nullptr).k.data);
        }
      } catch (const format_error&) {
      }
    }
  }
  EXPECT_GT(refused, 500);
  this->expect_unchanged();
}

TYPED_TEST(FileDamage, AnotherTypeThatIsAsLong) {
  for (const char* name : {"f32", "f64", "f16", "bf16", "", "f32x", "bf16\0x"}) {
    Bytes lying = this->bytes_;
    std::memset(lying.data() + 24, 0, 8);
    std::memcpy(lying.data() + 24, name, std::strlen(name));
    if (name == std::string("bf16") && std::is_same_v<TypeParam, bfloat16>) lying[24 + 6] = 'x';
    if (lying == this->bytes_) continue;
    sign(lying);
    test::write_bytes(this->path_, lying);
    EXPECT_NE(this->refusal(), "nothing thrown") << name;
  }
}

TYPED_TEST(FileDamage, OtherFiles) {
  for (const char* text :
       {"", "x", "GGUF", "a text that is longer than the sixty-four bytes a prefix has, and tells nothing"}) {
    test::write_bytes(this->path_, Bytes(text, text + std::strlen(text)));
    EXPECT_NE(this->refusal().find("header, byte "), std::string::npos) << text;
  }
  test::write_bytes(this->path_, Bytes(20000));
  EXPECT_NE(this->refusal().find("these are not the tokens of a cache"), std::string::npos);
}

TYPED_TEST(FileDamage, NoMemory) {
  Index failures = 0;
  for (;; ++failures) {
    allocations_left = failures;
    bool thrown = false;
    try {
      restore(this->cache_, this->path_);
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    allocations_left = -1;
    if (!thrown) break;
    ASSERT_EQ(this->cache_.size(), 9);
    this->expect_unchanged();
  }
  EXPECT_GT(failures, 5);
  EXPECT_EQ(this->cache_.size(), 35);
}

TYPED_TEST(FileDamage, ReadsThatFailOrStopShort) {
  for (int i = 0;; ++i) {
    fault = {.calls_left = i, .error = EIO};
    bool thrown = false;
    try {
      restore(this->cache_, this->path_);
    } catch (const std::system_error& error) {
      thrown = true;
      EXPECT_EQ(error.code().value(), EIO);
      EXPECT_NE(std::string(error.what()).find(this->path_.string()), std::string::npos);
    }
    const std::string name = fault.name;
    fault = {};
    if (!thrown) {
      EXPECT_EQ(i, 5) << "open, 2 of the header, 1 of each section";
      EXPECT_EQ(name, "close");
      break;
    }
    this->expect_unchanged();
  }
  for (const std::size_t most : {1u, 7u, 4095u}) {
    fault = {.most_bytes = most};
    const bool same = this->is_restored();
    fault = {};
    EXPECT_TRUE(same) << most;
  }
}

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
