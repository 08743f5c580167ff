#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants violations in small header trees and sees check_layers notice each one."""

import pathlib
import tempfile
import unittest

import check_layers

BEGINNING = "// SPDX-License-Identifier: Apache-2.0\n#pragma once\n"


class CheckLayers(unittest.TestCase):
    def violations(self, files, beginning=BEGINNING):
        with tempfile.TemporaryDirectory() as folder:
            for name, body in files.items():
                path = pathlib.Path(folder, "gqa", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(beginning + body, encoding="utf-8")
            return check_layers.violations(pathlib.Path(folder, "gqa"))

    def expect_one(self, files, part, **how):
        found = self.violations(files, **how)
        self.assertEqual(len(found), 1, found)
        self.assertIn(part, found[0])

    def test_accepts_own_and_lower_layers_and_others_headers(self):
        self.assertEqual(self.violations({
            "core/a.hpp": "#include <vector>\n#include <Eigen/Core>\n",
            "core/b.hpp": '#include "a.hpp"\n#include "gqa/core/a.hpp"\n',
            "kv/cache.hpp": '#include <gqa/core/a.hpp>\n#include "../core/b.hpp"\n',
            "gqa.hpp": "#include <gqa/kv/cache.hpp>\n",
        }), [])

    def test_a_higher_layer(self):
        kv = {"kv/cache.hpp": ""}
        self.expect_one({**kv, "core/a.hpp": "#include <gqa/kv/cache.hpp>\n"}, "core/a.hpp:3: core may not include")
        self.expect_one({**kv, "core/a.hpp": '#include "gqa/kv/cache.hpp"\n'}, "core may not include")
        self.expect_one({**kv, "core/a.hpp": '# include "../kv/cache.hpp"\n'}, "core may not include")
        self.expect_one({"attention.hpp": "", "kernel/a.hpp": "#include <gqa/attention.hpp>\n"}, "higher layer")

    def test_the_oracle_and_the_kernels_share_nothing(self):
        self.expect_one({"simd/vec.hpp": "", "reference/a.hpp": "#include <gqa/simd/vec.hpp>\n"}, "the oracle shares")
        self.expect_one({"reference/a.hpp": "", "kernel/b.hpp": "#include <gqa/reference/a.hpp>\n"}, "the oracle shares")

    def test_names_with_one_home(self):
        self.expect_one({"kv/a.hpp": "using T = Eigen::Tensor<float, 3>;\n"}, "only core/tensor.hpp may name")
        self.expect_one({"kv/a.hpp": "void f(Eigen::ThreadPoolDevice&);\n"}, "only core/parallel.hpp may name")
        self.assertEqual(self.violations({"core/tensor.hpp": "using T = Eigen::Tensor<float, 3>;\n"}), [])
        self.assertEqual(self.violations({"kv/a.hpp": "// takes an Eigen::Tensor\nint x; /* Eigen::Tensor */\n"}), [])

    def test_the_header_that_includes_everything(self):
        tree = {"core/a.hpp": "", "kv/b.hpp": "#include <gqa/core/a.hpp>\n"}
        self.expect_one({**tree, "gqa.hpp": "#include <gqa/core/a.hpp>\n"}, "kv/b.hpp:1: gqa.hpp does not include it")
        self.assertEqual(self.violations({**tree, "gqa.hpp": "#include <gqa/kv/b.hpp>\n"}), [])

    def test_a_header_that_needs_another_library(self):
        tree = {"kv/parts.hpp": "", "kv/file.hpp": "#include <gqa/kv/parts.hpp>\n", "kv/b.hpp": ""}
        self.assertEqual(self.violations({**tree, "gqa.hpp": "#include <gqa/kv/b.hpp>\n"}), [])
        self.expect_one({**tree, "kv/b.hpp": "#include <gqa/kv/file.hpp>\n", "gqa.hpp": "#include <gqa/kv/b.hpp>\n"},
                        "kv/file.hpp:1: gqa.hpp includes it")

    def test_an_include_that_cannot_be_followed(self):
        self.expect_one({"core/a.hpp": "#include SOME_MACRO\n"}, "cannot tell")
        self.expect_one({"core/a.hpp": '#include "nothing.hpp"\n'}, "neither")
        self.expect_one({"core/a.hpp": "#include <gqa/core/nothing.hpp>\n"}, "does not exist")

    def test_the_beginning_of_a_header(self):
        self.expect_one({"core/a.hpp": "#pragma once\n"}, "SPDX", beginning="")
        self.expect_one({"core/a.hpp": ""}, "#pragma once", beginning="// SPDX-License-Identifier: Apache-2.0\n")
        self.expect_one({"core/a.inc": ""}, "repeated text")
        self.expect_one({"core/a.cpp": ""}, "neither a header")
        self.expect_one({"misc/a.hpp": ""}, "no layer")

    def test_the_line_number_survives_comments(self):
        self.expect_one({"kv/a.hpp": "", "core/a.hpp": "/* two\nlines */\n#include <gqa/kv/a.hpp>\n"}, "core/a.hpp:5:")


if __name__ == "__main__":
    unittest.main()
