"""Reads functions in C++: what jiterator's templates and simple kernels are written in."""

from __future__ import annotations

from typing import Any, NamedTuple

from ._lexer import NotTranslatedError, Token, tokens_of

__all__ = ["TYPES", "Function", "Node", "Parameter", "Type", "functions_of"]


class Type(NamedTuple):
    """A type: its name, and whether it is a pointer or a reference."""

    name: str
    pointer: bool = False
    reference: bool = False


class Node(NamedTuple):
    """A piece of syntax.

    Attributes:
        kind: What it is; `_evaluate` has a method of that name.
        line: Where it begins, from 1.
        parts: What it is made of.
    """

    kind: str
    line: int
    parts: tuple[Any, ...]


class Parameter(NamedTuple):
    """What a function is given."""

    type: Type
    name: str


class Function(NamedTuple):
    """A function of the source.

    Attributes:
        name: Its name.
        type: What it returns.
        parameters: What it is given.
        body: What it does.
        line: Where it begins, from 1.
    """

    name: str
    type: Type
    parameters: tuple[Parameter, ...]
    body: Node
    line: int


TYPES = frozenset(
    {
        *("void", "bool", "char", "short", "int", "long", "unsigned", "signed", "float", "double"),
        *("auto", "half", "__half", "__nv_bfloat16", "size_t", "uint"),
        *("int8_t", "int16_t", "int32_t", "int64_t"),
        *("uint8_t", "uint16_t", "uint32_t", "uint64_t"),
    }
)
"""Types without a template; names of several words are made of these."""
_MODIFIERS = frozenset({"const", "volatile", "__restrict__", "__restrict", "restrict", "constexpr"})
_QUALIFIERS = frozenset(
    {
        *("__global__", "__device__", "__host__", "__forceinline__", "__noinline__"),
        *("static", "inline", "extern", '"C"'),
    }
)
_ASSIGNMENTS = frozenset({"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="})
# Loosest first.
_BINARY: tuple[frozenset[str], ...] = tuple(
    frozenset(level.split())
    for level in ("||", "&&", "|", "^", "&", "== !=", "< > <= >=", "<< >>", "+ -", "* / %")
)
_STATEMENTS = frozenset(
    {"do", "switch", "case", "default", "break", "continue", "goto", "try", "throw", "asm"}
)


def functions_of(source: str) -> tuple[Function, ...]:
    """The functions of source code, in order.

    Args:
        source: C++.

    Returns:
        Them.

    Raises:
        NotTranslatedError: For what is not read here.
    """
    return _Reader(tokens_of(source)).functions()


class _Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._template_types: set[str] = set()

    # --- words ----------------------------------------------------------------------------------

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _ahead(self, count: int = 1) -> Token:
        return self._tokens[min(self._at + count, len(self._tokens) - 1)]

    def _next(self) -> Token:
        token = self._token
        self._at += 1
        return token

    def _take(self, text: str) -> bool:
        if self._token.text != text or self._token.kind == "end":
            return False
        self._at += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._refusal()

    def _refusal(self, token: Token | None = None) -> NotTranslatedError:
        token = token or self._token
        return NotTranslatedError(f"`{token.text}`", token.line)

    # --- functions ------------------------------------------------------------------------------

    def functions(self) -> tuple[Function, ...]:
        found = []
        while self._token.kind != "end":
            if self._take("template"):
                self._template()
            elif self._token.text == "extern" and self._ahead(2).text == "{":
                self._at += 3
            elif not self._take("}") and not self._take(";"):
                found.append(self._function())
        return tuple(found)

    def _template(self) -> None:
        self._expect("<")
        while not self._take(">"):
            if not self._take("typename"):
                self._expect("class")
            self._template_types.add(self._next().text)
            self._take(",")

    def _function(self) -> Function:
        line = self._token.line
        self._qualifiers()
        returned = self._type()
        self._qualifiers()
        name = self._name()
        self._expect("(")
        parameters = []
        while not self._take(")"):
            kind = self._type()
            parameters.append(Parameter(kind, self._name()))
            if self._take("["):
                self._expect("]")
                parameters[-1] = Parameter(kind._replace(pointer=True), parameters[-1].name)
            if self._token.text != ")":
                self._expect(",")
        return Function(name, returned, tuple(parameters), self._block(), line)

    def _qualifiers(self) -> None:
        while self._token.text in _QUALIFIERS or self._token.text == "__launch_bounds__":
            if self._next().text == "__launch_bounds__":
                self._expect("(")
                while not self._take(")"):
                    self._next()

    def _name(self) -> str:
        if self._token.kind != "name":
            raise self._refusal()
        return self._next().text

    def _is_type(self, token: Token) -> bool:
        return token.text in TYPES or token.text in _MODIFIERS or token.text in self._template_types

    def _type(self) -> Type:
        words = []
        while self._is_type(self._token):
            word = self._next().text
            if word not in _MODIFIERS:
                words.append(word)
        if not words:
            raise self._refusal()
        pointer = reference = False
        while self._token.text in ("*", "&") or self._token.text in _MODIFIERS:
            mark = self._next().text
            if mark == "*" and pointer:
                raise NotTranslatedError("a pointer to a pointer", self._token.line)
            pointer, reference = pointer or mark == "*", reference or mark == "&"
        return Type(" ".join(words), pointer, reference)

    # --- statements -----------------------------------------------------------------------------

    def _block(self) -> Node:
        line = self._token.line
        self._expect("{")
        statements = []
        while not self._take("}"):
            statements.append(self._statement())
        return Node("block", line, tuple(statements))

    def _statement(self) -> Node:
        token = self._token
        if token.text == "{":
            return self._block()
        if self._take(";"):
            return Node("block", token.line, ())
        if token.text in _STATEMENTS or token.text == "__shared__":
            raise self._refusal()
        if self._take("return"):
            value = None if self._token.text == ";" else self._expression()
            self._expect(";")
            return Node("return_", token.line, (value,))
        if self._take("if"):
            self._expect("(")
            condition = self._expression()
            self._expect(")")
            then = self._statement()
            other = self._statement() if self._take("else") else None
            return Node("if_", token.line, (condition, then, other))
        if self._take("while"):
            self._expect("(")
            condition = self._expression()
            self._expect(")")
            return Node("loop", token.line, (None, condition, None, self._statement()))
        if self._take("for"):
            return self._for(token)
        return self._simple()

    def _for(self, token: Token) -> Node:
        self._expect("(")
        begin = None if self._take(";") else self._simple()
        condition = None if self._token.text == ";" else self._expression()
        self._expect(";")
        step = None
        if self._token.text != ")":
            step = Node("expression", token.line, (self._expression(),))
            while self._take(","):
                more = Node("expression", token.line, (self._expression(),))
                step = Node("block", token.line, (step, more))
        self._expect(")")
        return Node("loop", token.line, (begin, condition, step, self._statement()))

    def _simple(self) -> Node:
        """A declaration or an expression, with its semicolon."""
        line = self._token.line
        if self._is_type(self._token) and self._ahead().text != "(":
            kind, parts = self._type(), []
            while True:
                if kind.pointer or kind.reference:
                    what = "pointer" if kind.pointer else "reference"
                    raise NotTranslatedError(f"a {what} as a variable", line)
                name = self._name()
                if self._token.text == "[":
                    raise NotTranslatedError("an array as a variable", line)
                value = self._assignment() if self._take("=") else None
                parts.append(Node("declare", line, (kind, name, value)))
                if not self._take(","):
                    break
            self._expect(";")
            return parts[0] if len(parts) == 1 else Node("sequence", line, tuple(parts))
        value = self._expression()
        self._expect(";")
        return Node("expression", line, (value,))

    # --- expressions ----------------------------------------------------------------------------

    def _expression(self) -> Node:
        return self._assignment()

    def _assignment(self) -> Node:
        target = self._ternary()
        if self._token.text in _ASSIGNMENTS:
            operator = self._next()
            value = self._assignment()
            if operator.text != "=":
                value = Node("binary", operator.line, (operator.text[:-1], target, value))
            return Node("assign", operator.line, (target, value))
        return target

    def _ternary(self) -> Node:
        condition = self._binary(0)
        if self._token.text != "?":
            return condition
        line = self._next().line
        then = self._expression()
        self._expect(":")
        return Node("ternary", line, (condition, then, self._assignment()))

    def _binary(self, level: int) -> Node:
        if level == len(_BINARY):
            return self._unary()
        left = self._binary(level + 1)
        while self._token.text in _BINARY[level] and self._token.kind == "operator":
            operator = self._next()
            right = self._binary(level + 1)
            left = Node("binary", operator.line, (operator.text, left, right))
        return left

    def _unary(self) -> Node:
        token = self._token
        if token.text in ("-", "+", "!", "~"):
            self._next()
            return Node("unary", token.line, (token.text, self._unary()))
        if token.text in ("++", "--"):
            self._next()
            return self._stepped(token, self._unary())
        if token.text == "&":
            self._next()
            return Node("address", token.line, (self._unary(),))
        if token.text == "(" and self._is_type(self._ahead()):
            start = self._at
            self._next()
            kind = self._type()
            if self._take(")"):
                return Node("cast", token.line, (kind, self._unary()))
            self._at = start  # `(T(1) + x)` begins with a value of that type
        return self._postfix()

    def _stepped(self, token: Token, target: Node) -> Node:
        one = Node("number", token.line, (1,))
        value = Node("binary", token.line, (token.text[0], target, one))
        return Node("assign", token.line, (target, value))

    def _postfix(self) -> Node:
        node = self._primary()
        while True:
            token = self._token
            if self._take("["):
                node = Node("index", token.line, (node, self._expression()))
                self._expect("]")
            elif self._take("."):
                node = Node("member", token.line, (node, self._name()))
            elif token.text in ("++", "--"):
                self._next()
                # Its value is that after the step; `_evaluate` refuses to use it.
                node = Node("stepped", token.line, (self._stepped(token, node),))
            else:
                return node

    def _primary(self) -> Node:
        token = self._token
        if token.kind == "number":
            return Node("number", token.line, (_number(self._next().text),))
        if self._take("("):
            inside = self._expression()
            self._expect(")")
            return inside
        if token.text == "static_cast":
            self._next()
            self._expect("<")
            kind = self._type()
            self._expect(">")
            return Node("cast", token.line, (kind, self._in_parentheses()))
        if self._is_type(token):
            return Node("cast", token.line, (self._type(), self._in_parentheses()))
        self._take("::")
        name = self._name()
        while self._take("::"):
            name = self._name()
        if self._token.text == "<" and self._is_type(self._ahead()) and self._ahead(2).text == ">":
            self._at += 3  # the template's type is the one that there is
        if not self._take("("):
            return Node("name", token.line, (name,))
        arguments = []
        while not self._take(")"):
            arguments.append(self._assignment())
            if self._token.text != ")":
                self._expect(",")
        return Node("call", token.line, (name, tuple(arguments)))

    def _in_parentheses(self) -> Node:
        self._expect("(")
        inside = self._expression()
        self._expect(")")
        return inside


def _number(text: str) -> int | float:
    if text[:2].lower() == "0x":
        return int(text.rstrip("uUlL"), 16)
    digits = text.rstrip("uUlLfF")
    if any(mark in digits for mark in ".eE") or text[-1] in "fF":
        return float(digits)
    return int(digits, 8) if len(digits) > 1 and digits[0] == "0" else int(digits)
