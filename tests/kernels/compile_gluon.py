"""Compile the Gluon kernel for Hopper where no GPU is, and print what the binary says of it.

Run as a script: the interpreter, which the other tests need, would take the kernel over.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

INTEGERS = [
    "n_rows",
    "n_queries",
    "n_keys",
    "n_keys_step",
    "n_kv_heads",
    "tiles_per_split",
    "stride_qb",
    "stride_qh",
    "stride_qt",
    "rows_per_batch",
    "rows_per_head",
    "tiles_per_pair",
]


def main(kind: str, head_dim: int, rows: int, parts: int, stages: int, k: int) -> None:
    module = importlib.import_module("reattention_kernels.topk_keys.gluon_prefill")
    kernel = module.best_blocks_hopper
    dtype = {"bf16": gl.bfloat16, "i8": gl.int8}[kind]

    layout = gl.NVMMASharedLayout.get_default_for([256, head_dim], dtype)
    descriptor = f"tensordesc<{kind}[256, {head_dim}],{layout!r}>"
    share = 4
    asm, constraints = module.insertion_asm(k, 2 * parts, share if kind == "i8" else 0)
    shared_asm, shared_constraints = module.shared_kth_asm(share)
    constants = dict(
        BM=rows, BN=256, PARTS=parts, K=k, SHARE=share, STAGES=stages,
        ASM=asm, CONSTRAINTS=constraints, num_warps=rows // 16,
        SHARED_ASM=shared_asm, SHARED_CONSTRAINTS=shared_constraints,
    )  # fmt: skip
    signature = {name: "constexpr" for name in constants} | {name: "i32" for name in INTEGERS}
    signature |= {"q_ptr": f"*{kind}", "k_desc": descriptor, "out_ptr": "*i64"}
    if kind == "i8":
        signature |= {name: "*fp32" for name in ("row_ptr", "block_ptr", "largest_ptr")}
    else:
        for name in ("row_ptr", "block_ptr", "largest_ptr"):
            signature[name], constants[name] = "constexpr", None
    signature = {name: signature[name] for name in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    aligned = ("q_ptr", "out_ptr", "stride_qb", "stride_qh", "stride_qt")
    places = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = GluonASTSource(kernel, signature, constexprs, places)
    options = {"num_warps": rows // 16}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage, code = (
            subprocess.run(
                [tools / tool, flag, cubin], capture_output=True, text=True, check=True
            ).stdout
            for tool, flag in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    print(usage)
    print("products", code.count("GMMA.64x"), "waits", code.count("WARPGROUP.DEPBAR"))
    print("shared", compiled.metadata.shared)


if __name__ == "__main__":
    main(sys.argv[1], *(int(word) for word in sys.argv[2:]))
