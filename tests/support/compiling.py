"""Options of torch's compiler for tests."""

# Another process takes longer to start than it saves. Vector instructions are those that the processor lists: to try
# each set of them with the C++ compiler takes eight seconds.
QUICK = {"compile_threads": 1, "cpp.vec_isa_ok": True}
