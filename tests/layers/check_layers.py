#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check that include/gqa keeps its layers: check_layers.py INCLUDE_DIR prints one line a violation, exit code 1."""

import pathlib
import re
import sys

# Lowest first. A header may include its own layer and those before it.
LAYERS = ["core", "simd", "position", "mask", "score", "kv", "reference", "kernel", "explain.hpp", "mask.hpp",
          "score.hpp", "cache.hpp", "attention.hpp", "attention_backward.hpp", "attention_scores.hpp",
          "attention_weights.hpp", "cascade.hpp", "clustered_attention.hpp", "layer", "sparse_attention.hpp", "convert",
          "convert.hpp", "inspect", "plan", "gqa.hpp"]

# The oracle and what it judges share no code.
SEPARATE = {"reference": {"simd", "kernel"}, "simd": {"reference"}, "kernel": {"reference"},
            "attention.hpp": {"reference"}}

# Headers that need another library: who wants them includes them, gqa.hpp does not.
OPTIONAL = {"kv/file.hpp", "kv/mapped_prefix.hpp"}

# A name that one header alone may spell out.
ONLY_IN = {r"\bEigen::Tensor\b": "core/tensor.hpp", r"\bThreadPoolDevice\b": "core/parallel.hpp"}

# A file that is named where it is compiled once for each instruction set counts as included there.
INCLUDE = re.compile(r'^[ \t]*#[ \t]*(?:include(?![ \t]*GQA_SIMD_TEXT)|define GQA_SIMD_TEXT)\b[ \t]*(.*)$', re.MULTILINE)
COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/', re.DOTALL)
# A text that is compiled once per instruction set has no include guard and does not end in .hpp.
TEXTS = {".hpp", ".inc", ".inl"}


def without_comments(text):
    return COMMENT.sub(lambda m: "\n" * m.group().count("\n"), text)


def layer_of(path):
    """Layer of a path below include/gqa, or None."""
    name = path.parts[0]
    return name if name in LAYERS else None


def included_header(target, header, root):
    """The header of ours that an include directive names, relative to `root`; None for other people's."""
    quoted = re.fullmatch(r'"([^"]+)"|<([^>]+)>', target.strip())
    if not quoted:
        raise ValueError(f"cannot tell what #include {target.strip()} names")
    name = quoted.group(1) or quoted.group(2)
    if name.startswith("gqa/"):
        return pathlib.PurePosixPath(name[len("gqa/"):])
    if quoted.group(1):
        beside = (root / header).parent / name
        if beside.exists():
            return pathlib.PurePosixPath(beside.resolve().relative_to(root.resolve()).as_posix())
        raise ValueError(f'"{name}" is neither gqa/... nor beside the header')
    return None


def unreached(root, included):
    """Lines for the headers that gqa.hpp, which is to include everything but the optional ones, does not reach,
    and for optional ones that it does."""
    def reached(*roots):
        seen, todo = set(), list(roots)
        while todo:
            header = todo.pop()
            if header not in seen:
                seen.add(header)
                todo += included.get(header, ())
        return seen

    seen = reached("gqa.hpp", *OPTIONAL)
    return [f"{header}:1: gqa.hpp does not include it" for header in included
            if header.endswith(".hpp") and header not in seen] + [
        f"{header}:1: gqa.hpp includes it, and is to need no other library"
        for header in sorted(OPTIONAL & reached("gqa.hpp"))]


def violations(root):
    """Lines `header:line: what is wrong` for every header below `root` (the folder include/gqa)."""
    found = []
    included = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        header = pathlib.PurePosixPath(path.relative_to(root).as_posix())

        def report(line, what):
            found.append(f"{header}:{line}: {what}")

        if header.suffix not in TEXTS:
            report(1, f"is neither a header (.hpp) nor a repeated text ({', '.join(sorted(TEXTS - {'.hpp'}))})")
            continue
        raw = path.read_text(encoding="utf-8")
        if not raw.startswith("// SPDX-License-Identifier: Apache-2.0\n"):
            report(1, "does not begin with the SPDX line")
        if (header.suffix == ".hpp") != ("#pragma once" in raw):
            report(1, "a .hpp has #pragma once, a repeated text does not")
        layer = layer_of(header)
        if layer is None:
            report(1, f"is in no layer; the layers are {', '.join(LAYERS)}")
            continue
        text = without_comments(raw)
        included[str(header)] = []
        for match in INCLUDE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            try:
                target = included_header(match.group(1), header, root)
            except ValueError as error:
                report(line, str(error))
                continue
            if target is None:
                continue
            included[str(header)].append(str(target))
            other = layer_of(target)
            if not (root / target).is_file():
                report(line, f"includes {target}, which does not exist")
            elif other is None or LAYERS.index(other) > LAYERS.index(layer):
                report(line, f"{layer} may not include {target}: {other} is a higher layer")
            elif other in SEPARATE.get(layer, ()):
                report(line, f"{layer} may not include {target}: the oracle shares no code with what it judges")
        for name, home in ONLY_IN.items():
            for match in re.finditer(name, text):
                if str(header) != home:
                    report(text.count("\n", 0, match.start()) + 1, f"only {home} may name {match.group()}")
    if "gqa.hpp" in included:
        found += unreached(root, included)
    return found


if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1]) / "gqa"
    if not root.is_dir():
        sys.exit(f"{root} is not a folder")
    problems = violations(root)
    print("\n".join(problems) or "every header keeps its layer")
    sys.exit(1 if problems else 0)
