"""Mathematical answers as typed trees: read, evaluated and compared by code of our own, which executes nothing.

nodes     the tree
lexer     text -> tokens: LaTeX, Unicode and plain notation
vocabulary, literals, cursor, atoms, parser    tokens -> tree
values, evaluate    tree -> number: exact rationals where it can be, else many digits
sets      intervals, unions, inequalities as sets of reals
scalars, statements, families, matrices, compare    two trees -> the rule that makes them equal, or none
canonical tree -> the class it votes for
"""
