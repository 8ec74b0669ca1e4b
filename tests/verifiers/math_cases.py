"""Kinds of answers that `math` must tell apart, in both directions. Rows are (reference, response)."""
# ruff: noqa: E501

SAME = [
    # products after a factorial, compound units, twelve digits, repeated items, hedges, absolute values
    ("120", r"\frac{10!}{7!3!}"), ("120", r"{10 \choose 3}"), (r"\pm 3", "+/- 3"), ("36", r"\operatorname{lcm}(12,18)"), ("1 hour 30 minutes", "90 minutes"), ("1.5 hours", "1 hour and 30 minutes"),
    ("5 ft 6 in", "66 inches"), (r"9.8\ \mathrm{m/s^2}", "9.8 m/s²"), (r"\frac13", "0.333333333333"), (r"\sqrt2", "1.41421356237"), (r"\sqrt2", "1.41421356237309"), ("1,1,2,3,5", "1,1,2,3,5"),
    (r"\{1,2,3\}", r"\{1,2,3,3\}"), (r"|x-10|", "|10-x|"), (r"\sqrt{x^2y^2}", "|xy|"), (r"\max(x,y)", r"\frac{x+y+|x-y|}{2}"), ("2", r"\boxed{$\quad 2$}"), ("(B)", "(B) I and II"),
    ("5", r"\boxed{5\ }"), ("5", r"\boxed{\;5\;}"), ("5", r"\boxed{~5~}"), (r"33\frac13\%", "1/3"), (r"5\text{ mph}", "5 miles per hour"), ("C", "The correct option is (C)."),
    (r"30^\circ", r"30\text{ degrees}"), ("300000", "3 x 10^5"), (r"\{1,2\}", "{2,1}"), (r"28\%", r"28\text{ percent}"),
    # words for numbers and sets, currencies by code, blanks, temperatures, hours
    ("10", "USD 10"), ("10", "10 USD"), ("1000000", "1 million"), ("24", "2 dozen"), (r"\emptyset", "no solution"), (r"\mathbb{R}", "all real numbers"),
    (r"(0,\infty)", r"\mathbb{R}^+"), (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"), ("xyz", "zyx"), (r"101_{\text{two}}", "101_2"), ("-10", "-10°F"), ("2", "2:00 pm"),
    ("4", r"Which number goes into $\boxed{\phantom{2}}$? It is \boxed{4}"), (r"\text{4:30 p.m.}", "16:30"), ("12", r"12^{\text{th}}"),
    # integers and separators
    ("1234", "1,234"), ("1234567", "1{,}234{,}567"), ("10000", "10 000"), ("12345", r"12,\!345"), ("42", "042"),
    ("42", "42.0"), ("42", "+42"), ("42", "42."), ("-5", "\u22125"), ("-5", "\u20135"), ("12", "１２"), ("5", "5\u200b"),
    # decimals, fractions, mixed, repeating, scientific
    ("0.5", ".5"), ("0.5", r"\frac12"), ("1/2", "½"), (r"\frac{7}{2}", r"3\frac{1}{2}"), ("7/2", "3½"), ("7/2", "3 1/2"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"), (r"-\frac{1}{2}", r"\frac{1}{-2}"), ("2/3", r"\dfrac{4}{6}"),
    (r"\frac{1}{6}", r"0.1\overline{6}"), (r"\frac{1}{6}", "0.1666..."), (r"\frac{1}{7}", "0.142857142857..."),
    ("1/3", "0.(3)"), ("120000", "1.2e5"), ("120000", r"1.2\times10^5"), ("0.00012", r"1.2 \cdot 10^{-4}"),
    ("6.02e23", r"6.02 \times 10^{23}"), ("3.14", "3,14"), (r"\frac{1}{12}", "0.0833333333333333"),
    # percent, currency, units, degrees, times, ratios
    ("50", r"50\%"), (r"50\%", "0.5"), ("0.5", "50%"), (r"28\%", "28 percent"), ("1/4", r"25\%"), (r"12.5\%", "1/8"),
    ("10", "$10"), ("10", r"\$10.00"), (r"\$10", "10 dollars"), ("10", "€10"), ("\\$0.60", "60 cents"),
    (r"5\text{ cm}", "5"), (r"5\text{ cm}", "5 cm"), (r"5\text{ cm}", r"5\,\mathrm{cm}"), (r"5\text{ m}", r"500\text{ cm}"),
    (r"15\mbox{ cm}^2", "15 cm^2"), (r"15\text{ cm}^2", "15 square centimeters"), ("1", r"1\,\text{m/s}"), ("3", "3 apples"),
    (r"30^\circ", "30"), (r"30^\circ", r"\frac{\pi}{6}"), (r"30^\circ", "30°"), ("30", "30 degrees"),
    (r"\text{4:30 p.m.}", "4:30 pm"), ("4:30", "4:30"), ("3:4", "3 : 4"),
    # surds, expressions, functions, constants
    (r"\sqrt{50}", r"5\sqrt2"), (r"\sqrt{2}", "2^{1/2}"), (r"\frac{1}{\sqrt2}", r"\frac{\sqrt{2}}{2}"), ("3\\sqrt{13}", "3√13"),
    (r"\frac{1}{1+\sqrt2}", r"\sqrt{2}-1"), (r"\sqrt[3]{8}", "2"), (r"\sqrt[3]{-8}", "-2"), ("x^2-1", "(x-1)(x+1)"),
    ("x^2+2x+1", "(x+1)^2"), (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"), (r"\sec^2 y", r"1+\tan^2(y)"), ("2xy", "2yx"),
    (r"\ln 8", r"3\ln 2"), (r"\log_2 8", "3"), (r"\log_{10} 100", "2"), ("2", r"\log 100"), (r"e^{2x}", r"(e^x)^2"),
    (r"\sin(2x)", r"2\sin x\cos x"), (r"|x-2|", r"|2-x|"), (r"\binom{5}{2}", "10"), ("120", "5!"), ("2^{31}-1", "2147483647"),
    (r"\frac{\pi r}{h+r}", r"\pi r/(r+h)"), ("0", "x-x"), (r"\infty", "infinity"), (r"-\infty", "-∞"), (r"\arctan 1", r"\pi/4"),
    (r"\cos\frac{\pi}{3}", "0.5"), (r"\tan^{-1}(1)", r"\frac{\pi}{4}"), ("x1", "x_1"), ("x_{12}", "x_12"), ("2\\pi", "2π"),
    (r"\left(\frac{1}{2}\right)^{3}", "1/8"), ("a^{-1}", r"\frac{1}{a}"), (r"\frac{a}{b}\cdot c", r"\frac{ac}{b}"),
    # complex numbers
    ("6-5i", "-5i+6"), ("i", r"\sqrt{-1}"), (r"\frac{1}{i}", "-i"), ("(1+i)^2", "2i"), (r"e^{i\pi}", "-1"),
    # tuples, lists, sets, matrices
    ("(1,2)", "(1, 2)"), (r"\left(3,\frac{\pi}{2}\right)", "(3, pi/2)"), ("1,2", "2,1"), ("1,2,3", "3, 1 and 2"),
    (r"\{1,2,3\}", r"\{3,2,1\}"), (r"\{1,2\}", "1, 2"), (r"\emptyset", r"\{\}"), ("2, 3", r"x=2 \text{ or } x=3"),
    ("3, -3", r"\pm 3"), (r"\pm 3", "-3, 3"), (r"1\pm\sqrt{2}", r"1+\sqrt2, 1-\sqrt2"), ("(1,2),(3,4)", "(3,4), (1,2)"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"), (r"\langle 1,2\rangle", "(1,2)"),
    (r"\begin{pmatrix}1/2\\0.5\end{pmatrix}", r"\begin{pmatrix}0.5\\ \frac12\end{pmatrix}"),
    # intervals, inequalities, equations, families
    ("[1,2)", r"1\le x<2"), ("(3,5)", "3<x<5"), ("x>3", "3<x"), ("x>3", r"(3,\infty)"), ("x>3", r"x\in(3,\infty)"),
    (r"(-\infty,-1)\cup(1,\infty)", r"(1,\infty)\cup(-\infty,-1)"), (r"(-\infty,-1)\cup(1,\infty)", r"x<-1 \text{ or } x>1"),
    (r"(-\infty,-1)\cup(1,\infty)", "|x|>1"), ("[-2,2]", r"|x|\le2"), ("x<5", "2x<10"), ("x<1", "-x>-1"), (r"x\neq2", r"\mathbb{R}\setminus\{2\}"),
    (r"(-\infty,2)\cup(2,\infty)", r"x \ne 2"), ("3<x<5", r"x>3 \text{ and } x<5"), (r"[0,2]\cup[1,3]", "[0,3]"), (r"\mathbb{R}", r"(-\infty,\infty)"),
    ("x=5", "5"), ("5", "x=5"), ("5", "x = 2+3 = 5"), ("9604", "7*7*7*7*4=9604"), ("x=2,y=3", "y=3, x=2"), ("y=2x+3", "2x-y+3=0"),
    ("x^2+y^2=1", "2x^2+2y^2=2"), ("2x+3", "y=2x+3"), ("f(x)=x^2", "x^2"), ("(p,q)=(3,2)", "(3,2)"), ("|AB|=1", "1"),
    (r"k\pi, k\in\mathbb{Z}", r"n\pi, n \in \mathbb{Z}"), (r"\{n\pi : n\in\mathbb{Z}\}", r"k\pi, k\in\mathbb{Z}"),
    (r"\frac{\pi}{4}+k\pi, k\in\mathbb{Z}", r"n\pi - \frac{3\pi}{4}, n\in\mathbb{Z}"), (r"x = k\pi, k \in \mathbb{Z}", r"n\pi"),
    # modular, bases, choices, words
    (r"5\pmod 7", r"12\pmod 7"), ("204_5", "204_{5}"), ("B", "(B)"), ("B", "B."), ("B", r"\text{(B)}"), ("B", "B) 12"), (r"\text{(C)}", r"\boxed{\textbf{(C)}\ 7}"),
    (r"\text{Evelyn}", "evelyn"), (r"\text{yes}", "Yes."), ("five", "5"), ("5", "five"), ("25", "twenty-five"), ("HHT", "HHT"),
    # where the answer stands
    ("42", r"\boxed{42}"), ("42", r"\boxed{\boxed{42}}"), ("42", r"\fbox{42}"), ("42", r"\boxed 42"), ("42", "The answer is 42."), ("42", "#### 42"),
    ("42", "**Final Answer:** 42"), ("42", "Final answer: $42$. I hope it is correct."), ("4", r"\boxed{004} so \boxed{4}"),
    ("42", r"<think>\boxed{41}</think> \boxed{42}"), ("1/2", r"$$\boxed{\frac{1}{2}}$$"), ("42", r"\boxed{\text{The answer is }42}"), ("7", r"\boxed{7?}"),
    ("(2,2),(6,2)", r"\boxed{(2,2)} and \boxed{(6,2)}"), ("5", "答案是5"), ("12", r"So $x = 12$."), ("189", "answer is 189.\n\nAnother thought: I like 4 trapezoids."),
    (5, r"\boxed{5}"), (0.5, r"\boxed{\frac{1}{2}}"), (r"The area is \boxed{12}.", "12"),
]  # fmt: skip
DIFFERENT = [
    ("1,1,2,3,5", "1,2,3,5"), ("1,2", "1,2,2"), ("1,2", "1.2"), ("1,234", "1.234"), ("100", "100.000000000001"), ("100", "99.9999999999999999"), (r"\frac13", "0.33333333333"),
    ("|x-10|", "10-x"), ("|x-10^9|", "10^9-x"), (r"\sqrt{(x-1000)^2}", "1000-x"), ("|xy|", "xy"), ("|x-y|", "x-y"), (r"\max(x,y)", "x"), (r"\lfloor x/10^6\rfloor", "0"), (r"\sqrt{x^2y^2}", "xy"),
    ("2", "The answer is negative 2."), ("2", "The answer is minus 2"), ("5", "The answer is the square root of 5."), ("2", "It is the cube root of 2"), ("5", "5 squared"), ("5", "The answer is 5 squared."),
    ("5", "It cannot be 5"), ("5", "I do not get 5"), ("9", "somewhere between 7 and 9"), ("5", "It is 3 plus 5"), ("7", "The answer is 22 over 7"), ("5", "twice 5"), ("2", "The answer is half of 2"),
    ("1", r"3^{10^{2000}} \bmod (10^{2000}+7)"),
    ("1 hour 30 minutes", "30"), ("5 ft 6 in", "6 in"), ("A", "(A) or (B)"), ("A", "(A), (B)"), ("A", r"\textbf{(A)} or \textbf{(B)}"), ("7", r"\boxed{7\text{ (or 8)}}"), ("7", r"7\text{ maybe}"),
    (r"\text{Evelyn}", "yii>e"), ("x>1", "yii>e"),
    ("(1,2)", "{1,2}"), ("2", "4 2"), ("3", "1 to 3"), (r"\frac13", r"33.33\%"),
    ("5", r"\log_.5{x}"), ("5", "1e9999"), ("5", "1e999"),
    # the other half of the day, formulas that are not read, bounds, hedges
    (r"\text{4:30 p.m.}", "4:30 a.m."), ("1", r"\sum_{k=1}^{3} k"), ("1", r"\int_0^1 x\,dx"), ("0", "5, where x>0"), ("5", "maybe 5"), ("5", "The answer isn't 5"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"), ("-10", "10°F"), ("10", "10_2"), ("(0,1)", r"\mathbb{R}^+"),
    # numbers
    ("1,2,3", "123"), ("(1,234)", "1,234"), ("1,234", "(1, 234)"), ("314", "3,14"), ("32349", "32, 349"), ("3.14", r"\pi"), (r"\pi", "3.14"),
    (r"\frac{22}{7}", r"\pi"), ("1/3", "0.333"), ("1/7", "0.142857"), ("7", "6.9999999"), ("7", "7.0000004"), ("0.00000123", "0.00000077"),
    ("6.6e-34", "9.1e-31"), ("10^{100}", "10^{100}+1"), (r"\frac{2^{2005}+1}{3\cdot 2^{2006}}", r"\frac{2^{2005}}{3\cdot 2^{2006}}"),
    ("5", "500"), ("5", "0.05"), ("50", r"5\%"), ("1", "100"), ("12", "١٢"), ("5", "-5"), ("5", "5!"), ("2", "√2"), ("10", "1e10"), ("1e-400", "0"), ("e^{-1000}", "0"),
    ("e^{-1000}", "2e^{-1000}"), (r"\sqrt{10^{100}+1}", "10^{50}"), ("3", "3%3"), ("0.1", "0.10000000001"),
    # units and the like
    (r"5\text{ cm}", r"5\text{ m}"), (r"5\text{ cm}", r"5\text{ cm}^2"), (r"\$10", "€10"), (r"\$36", r"36^\circ"), ("12:00", "1:00"), ("5:00", "17:00"),
    ("3:4", "4:3"), ("3:4", "6:8"), (r"3\text{ apples}", r"3\text{ oranges}"), (r"30^\circ", r"\frac{\pi}{3}"), ("5 cents", "5 dollars"),
    # equations are not their sides
    ("2", "x^2=2"), ("12", "3x=12"), ("0", "x^2-4=0"), ("7", "x+y=7"), ("6", "5=6"), ("5", "x=5=y"), ("11a+c", "7=11a+c"), ("x=2", "2x=4"), ("x=5", "y=5"),
    ("y=2x+3", "y=3x+2"), ("x=2,y=3", "x=3,y=2"), ("x=2,y=3", "3,2"),
    # letters, words, order
    ("HHT", "THH"), ("abc", "cab"), ("AB", "BA"), (r"\text{listen}", "silent"), (r"\text{even}", r"\text{even function}"), ("A", "A cat"), ("B", "A"), ("B", r"\textbf{(A)}\ B"),
    (r"\frac12x", r"\frac{1}{2x}"), ("x", "y"), ("x+2n+1", "x+1"), ("(a+5)(b+2)", "(+5)(b+2)"), ("x^2", "2x"), ("x_1", "x_2"), ("f(x)", "f(y)"), (r"\sqrt{x^2}", "x"),
    ("100100", "100100_2"), ("204_5", "204_6"), ("204_5", "204"), (r"\sin x", r"\cos x"),
    # sets, tuples, intervals
    ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("(1,2]", "(1,2)"), (r"\{1,2\}", "(1,2)"), (r"\{1,2\}", "(2,1)"), (r"\{1,2\}", r"\{1,2,3\}"), ("2,3", "5"), ("1", "1, 2"), ("2", "1 or 2"),
    (r"\pm3", "3"), ("3", r"\pm 3"), ("n=2, 3, 4", "n=1, 2, 3"), (r"1, 2, \ldots, n", r"1, 3, \ldots, 2n-1"), ("36", "9, 18, 27, 36, ..."), ("x>3", "x<3"), ("x>3", r"x\ge3"), ("x>3", "y>3"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    (r"\{n\pi : n\in\mathbb{Z}\}", r"2k\pi, k\in\mathbb{Z}"), (r"(0,1)\cup(1,2)", "(0,2)"), ("[0,1]", r"\{0,1\}"), (r"x\ne2", r"x\ne3"),
    # hedges, failed boxes, negations
    ("42", "41 (or 42)"), ("42", "42 or 43"), ("42", r"\boxed{42\quad 41}"), ("42", r"\boxed{42\\41}"), ("42", "42/41"), ("2", r"\boxed{1}\boxed{2}"), ("7", "not 7"), ("7", r"\text{not }7"), ("7", r"\approx 7"),
    ("42", r"\boxed{42"), ("42", r"I get 42. \boxed{\unknowncmd{}}"), ("42", r"First \boxed{42}, then \boxed{@@}"), ("5", r"\boxed{3} and after a long discussion of many further things \boxed{5}"),
    ("-1", "a - 1"), ("2", "(1 + √3) / 2"), ("8", "4√2 + 8"), ("2", "AZYUK2A"), ("42", "5 + 42 is not computed"), ("3", r"2 < 3"), ("7", "10^{10^8} \\bmod 7"),
    ("5", "9^{9^{9^{9}}}"), ("5", r"(10^8)!"), ("5", r"\int_0^1 e^{-x^2}\sin(x^3)\,dx"), ("5", "__import__('os')"), ("5", ""),
]  # fmt: skip
