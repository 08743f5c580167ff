// SPDX-License-Identifier: Apache-2.0
// What the library says of Eigen where it has not been included: to read Eigen's headers takes longer than to
// read ours. Whoever passes a tensor, a matrix or 16-bit floats includes Eigen's header for them, before ours
// or after.
#pragma once

#include <cstddef>

#include "gqa/core/toolchain.hpp"

namespace Eigen {

struct half;
struct bfloat16;

template <class Derived>
struct EigenBase;
template <class Derived>
class DenseBase;
template <class Derived>
class PlainObjectBase;

template <class Scalar, int Rank, int Options, class IndexType>
class Tensor;
template <class Plain, int Options, template <class> class MakePointer>
class TensorMap;
template <class Derived, int Access>
class TensorBase;

}  // namespace Eigen

/// Eigen's names that cannot be declared. Where Eigen is there too, gqa.hpp checks them.
namespace gqa::detail::eigen {

inline constexpr int ColMajor = 0, RowMajor = 1;
inline constexpr int ReadOnlyAccessors = 0;
inline constexpr unsigned DirectAccessBit = 0x40;

#ifdef EIGEN_DEFAULT_DENSE_INDEX_TYPE
using Index = EIGEN_DEFAULT_DENSE_INDEX_TYPE;
#else
using Index = std::ptrdiff_t;
#endif

}  // namespace gqa::detail::eigen

// How Eigen's tensors own memory depends on the flags of the file that includes Eigen (-march, sanitizers,
// macros of Eigen's): whether they leave its alignment to malloc(), or see to so many bytes themselves. One
// program may hold files of several such flags, and the linker keeps one copy of each inline function for all
// of them: a tensor made the one way would be freed the other. So what makes a tensor has the way in its
// name: `inline namespace GQA_EIGEN_MEMORY { ... }`. The same name has to mean the same way; one way may have
// several names.
#if defined(EIGEN_DEFAULT_ALIGN_BYTES) && defined(EIGEN_MALLOC_ALREADY_ALIGNED)  // Eigen has decided

#if EIGEN_MALLOC_ALREADY_ALIGNED || EIGEN_DEFAULT_ALIGN_BYTES == 0
#define GQA_EIGEN_MEMORY eigen_malloc
#elif EIGEN_DEFAULT_ALIGN_BYTES <= 8
#define GQA_EIGEN_MEMORY eigen_aligned_8
#elif EIGEN_DEFAULT_ALIGN_BYTES <= 16
#define GQA_EIGEN_MEMORY eigen_aligned_16
#elif EIGEN_DEFAULT_ALIGN_BYTES <= 32
#define GQA_EIGEN_MEMORY eigen_aligned_32
#elif EIGEN_DEFAULT_ALIGN_BYTES <= 64
#define GQA_EIGEN_MEMORY eigen_aligned_64
#else
#define GQA_EIGEN_MEMORY eigen_aligned_more
#endif

#else  // Eigen will decide, by the same flags: names of all that matters, apart from those above

// EIGEN_DEFAULT_ALIGN_BYTES: what vectors want, or EIGEN_MAX_ALIGN_BYTES where that is more.
#if defined(EIGEN_DONT_VECTORIZE)
#define GQA_VECTOR_BYTES 0
#elif defined(__AVX512F__)
#define GQA_VECTOR_BYTES 64
#elif defined(__AVX__)
#define GQA_VECTOR_BYTES 32
#else
#define GQA_VECTOR_BYTES 16
#endif
#if defined(EIGEN_MAX_ALIGN_BYTES) && EIGEN_MAX_ALIGN_BYTES > GQA_VECTOR_BYTES
#define GQA_ALIGN_BYTES EIGEN_MAX_ALIGN_BYTES
#else
#define GQA_ALIGN_BYTES GQA_VECTOR_BYTES
#endif
// What malloc() aligns to Eigen is told, or knows of the system, which all of a program shares, and of
// sanitizers.
#if defined(EIGEN_MALLOC_ALREADY_ALIGNED) && EIGEN_MALLOC_ALREADY_ALIGNED || GQA_ALIGN_BYTES == 0
#define GQA_EIGEN_MEMORY eigen_later_malloc
#elif GQA_ALIGN_BYTES <= 8
#define GQA_EIGEN_MEMORY eigen_later_8
#elif GQA_ALIGN_BYTES <= 16 && defined(EIGEN_MALLOC_ALREADY_ALIGNED)
#define GQA_EIGEN_MEMORY eigen_later_aligned_16
#elif GQA_ALIGN_BYTES <= 16 && defined(GQA_ADDRESS_SANITIZER)
#define GQA_EIGEN_MEMORY eigen_later_sanitized_16
#elif GQA_ALIGN_BYTES <= 16
#define GQA_EIGEN_MEMORY eigen_later_16
#elif GQA_ALIGN_BYTES <= 32
#define GQA_EIGEN_MEMORY eigen_later_32
#elif GQA_ALIGN_BYTES <= 64
#define GQA_EIGEN_MEMORY eigen_later_64
#else
#define GQA_EIGEN_MEMORY eigen_later_more
#endif

#undef GQA_VECTOR_BYTES
#undef GQA_ALIGN_BYTES

#endif
