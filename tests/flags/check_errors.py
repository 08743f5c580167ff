"""What the library cannot be compiled with is one error and the end, not a thousand: check_errors.py COMPILER FLAG...,
the flags being those that compile it."""
import re
import subprocess
import sys

HEADERS = ["gqa/gqa.hpp", "gqa/kv/cache.hpp", "gqa/core/memory.hpp"]
CASES = {
    "-std=c++17": "C++20 is needed; compile with -std=c++20",
    "-fno-exceptions": "errors are reported by exceptions; compile without -fno-exceptions",
    "-ffast-math": "masks are infinities and promises are bits; compile without -ffast-math and -ffinite-math-only",
    "-ffinite-math-only": "masks are infinities and promises are bits",
}
COMPILER_CASES = {
    "g++": {"-U__GNUC__ -D__GNUC__=11": "GCC 12 or newer is needed",
            "-fno-trapping-math -fno-signed-zeros -fassociative-math": "masks are infinities and promises are bits"},
    "clang": {"-U__clang_major__ -D__clang_major__=13": "Clang 14 or newer is needed"},
}


def errors(compiler, flags, header):
    command = [compiler, *flags, "-fsyntax-only", "-w", "-x", "c++", "-"]
    run = subprocess.run(command, input=f"#include <{header}>\n", capture_output=True, text=True)
    return re.findall(r"^.*\berror: (.*)$", run.stderr, re.MULTILINE)


compiler, flags = sys.argv[1], sys.argv[2:]
version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
failed = bool(errors(compiler, flags, "gqa/gqa.hpp"))
print(f"as it should be compiled: {'FAILED' if failed else 'ok'}")
for case, message in {**CASES, **COMPILER_CASES["clang" if "clang" in version else "g++"]}.items():
    for header in HEADERS:
        found = errors(compiler, [*flags, *case.split()], header)
        good = len(found) == 2 and f"gqa: {message}" in found[0] and "stopped by the error above" in found[1]
        print(f"{header} {case}: {'ok' if good else f'expected {message!r} and the stop, got {found[:3]}'}")
        failed = failed or not good
sys.exit(failed)
