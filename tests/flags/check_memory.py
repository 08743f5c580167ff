"""What makes Eigen's tensors has a name of its own (GQA_EIGEN_MEMORY) for each way in which they own memory, whatever the
flags, and whether our header comes before Eigen's or after: check_memory.py COMPILER FLAG..., the flags being those that
compile the library. Two ways under one name are what the linker would mix."""
import itertools
import subprocess
import sys

VECTORS = ["", "-mavx", "-mavx512f -mfma", "-DEIGEN_DONT_VECTORIZE"]
MACROS = ["", "-fsanitize=address", "-DEIGEN_DONT_ALIGN", "-DEIGEN_MAX_ALIGN_BYTES=8", "-DEIGEN_MAX_ALIGN_BYTES=32",
          "-DEIGEN_MAX_ALIGN_BYTES=128", "-DEIGEN_MALLOC_ALREADY_ALIGNED=0", "-DEIGEN_MALLOC_ALREADY_ALIGNED=1"]
OURS = "#include <gqa/core/eigen.hpp>\n"
# Where Eigen decides; all of <Eigen/Core> takes four times as long.
EIGENS = "".join(f"#include <Eigen/src/Core/util/{name}.h>\n"
                 for name in ("Macros", "ConfigureVectorization", "Memory"))
ANSWER = "answer GQA_EIGEN_MEMORY EIGEN_DEFAULT_ALIGN_BYTES EIGEN_MALLOC_ALREADY_ALIGNED\n"


def answer(command, text):
    """The name, and to how many bytes Eigen aligns by itself: 0 where it leaves that to malloc."""
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    _, name, alignment, malloc_aligns = run.stdout.splitlines()[-1].split()
    return name, 0 if malloc_aligns == "1" else int(alignment)


command = [*sys.argv[1:], "-DEIGEN_CORE_MODULE_H", "-E", "-P", "-w", "-x", "c++", "-"]
ways = {}
for flags in itertools.product(VECTORS, MACROS):
    for order, text in (("ours first", OURS + EIGENS), ("Eigen's first", EIGENS + OURS)):
        name, way = answer([*command, *" ".join(flags).split()], text + ANSWER)
        ways.setdefault(name, {}).setdefault(way, []).append(" ".join([*flags, f"({order})"]).strip())
mixed = {name: by_way for name, by_way in ways.items() if len(by_way) > 1}
for name, by_way in mixed.items():
    print(f"{name} means {len(by_way)} ways:")
    for way, cases in by_way.items():
        print(f"  {f'aligned to {way}' if way else 'as malloc aligns'}: {', '.join(cases)}")
found = {way for by_way in ways.values() for way in by_way}
print(f"{len(ways)} names of {len(found)} ways")
sys.exit(bool(mixed) or len(found) < 6)
