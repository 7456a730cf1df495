"""Tests of a program in another process: only data crosses between the two.

The tests' process asks (call this function with these arguments, read this attribute), and the program's process
answers with data. It sees its arguments and nothing else: no expected value, no test, no verdict. What it answers is
compared in the tests' process, by Python's own types: an object that says that it equals everything cannot cross.

wire.py      the form of values on the wire
forms.py     the forms of Python's own types, and of numpy's
changes.py   what a call changed in its arguments
channel.py   messages over two pipes
answer.py    the program's side: runs the program, carries out what is asked
ask.py       the tests' side: asks, and reads the answers
remote.py    what stands in the tests for the program's functions, objects and classes
tests.py     runs the tests
"""
