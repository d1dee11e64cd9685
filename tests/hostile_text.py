"""Small texts that stand for much: what a parser without bounds never finishes."""

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
LOOP = "a: &a [*a]\n"
DEEP = "[" * 5000
DEEP_JSON = '{"a":' * 5000
