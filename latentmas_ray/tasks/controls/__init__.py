"""Controls that change what agents are told: the memory of another question, and a wrong version of a question."""
