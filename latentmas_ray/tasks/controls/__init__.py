"""Controls that change what agents get: the memory of another question, and a wrong version of a question."""
