// SPDX-License-Identifier: Apache-2.0
// The caches, and views of keys and values that stand elsewhere.
#pragma once

#include "gqa/kv/any_kv.hpp"
#include "gqa/kv/batch.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/kv/contiguous.hpp"
#include "gqa/kv/cross.hpp"
#include "gqa/kv/evicting.hpp"
#include "gqa/kv/evicting_sequence.hpp"
#include "gqa/kv/hybrid.hpp"
#include "gqa/kv/indexed.hpp"
#include "gqa/kv/kv_list.hpp"
#include "gqa/kv/latent.hpp"
#include "gqa/kv/padded.hpp"
#include "gqa/kv/paged.hpp"
#include "gqa/kv/ring.hpp"
