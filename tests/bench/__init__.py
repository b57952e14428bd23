"""How fast is it: ``python -m tests.bench.activation``, from the project's directory."""
