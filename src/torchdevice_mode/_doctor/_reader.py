"""Walks a file in the order in which Python would execute it, and knows what is reached when.

Bodies of functions are read after what is around them, as they run later. Of a branch whose
condition is known (`_facts`) the other side is dead: what is found there is a note. An import
that fails for certain ends the `try` around it, and its handler is what goes on.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ._facts import evaluate, of_name, truth
from ._flow import (
    FUNCTIONS,
    IMPORT_ERRORS,
    Imported,
    Where,
    asks_for_main,
    branch,
    caught_by,
    end_of,
    gives_up,
    inner,
    parameters,
)
from ._names import Fact, Scope, dotted, last_name
from ._packages import Package

__all__ = ["Checks", "Reader"]


class Checks:
    """What the reader tells of; `_checks` has the checks themselves."""

    def expression(self, node: ast.expr, where: Where, reader: Reader) -> bool:
        """Look at an expression; True if what is below it needs no look."""
        raise NotImplementedError

    def imports(self, name: str, node: ast.stmt, where: Where) -> Package | None:
        """Look at a module that is imported; the package, if its import fails here."""
        raise NotImplementedError

    def branch(self, node: ast.expr | ast.stmt, where: Where, known: Fact, failing: bool) -> None:
        """Look at a condition that is known, or at what ends the program on its account."""
        raise NotImplementedError


class Reader:
    """Reads one file.

    Args:
        checks: Told of what is met.
        facts_hold: Whether facts about machines without CUDA hold for the target.
        unknown: Names of torch whose value is not known.

    Attributes:
        imported: The modules that the file imports, those in dead code left out.
        is_program: Whether it asks if it is run as a program.
        assigned: The value that is assigned to the expression that is looked at, if any.
    """

    def __init__(
        self, checks: Checks, *, facts_hold: bool = True, unknown: frozenset[str] = frozenset()
    ) -> None:
        self.checks = checks
        self.unknown = unknown
        self.facts_hold = facts_hold
        self.imported: list[Imported] = []
        self.is_program = False
        self.assigned: ast.expr | None = None
        self._later: list[tuple[ast.AST, Where]] = []

    def read(self, tree: ast.Module) -> None:
        """Read a module.

        Args:
            tree: Its syntax tree.
        """
        scope = Scope(body=tree.body, unknown=self.unknown)
        self._block(tree.body, Where(scope, scope))
        while self._later:
            node, where = self._later.pop(0)
            self._function(node, where)

    def truth(self, node: ast.expr, where: Where) -> Fact | None:
        """Which way a condition goes, if facts hold and it is known."""
        return truth(node, where.scope) if self.facts_hold else None

    # --- statements -----------------------------------------------------------------------------

    def _block(self, statements: Sequence[ast.stmt], where: Where) -> Package | str:
        """Read statements in order.

        Returns:
            The package whose import ends the block; else why the block does not run to its end,
            if that is for certain; else nothing.
        """
        ended: Package | str = ""
        for statement in statements:
            here = where
            if ended and not where.dead:
                why = ended if isinstance(ended, str) else f"{ended.name} cannot be imported here"
                here = replace(where, dead=why)
            result = self._statement(statement, here)
            # An import that fails ends a `try`; elsewhere what follows is worth reading.
            if not ended and (isinstance(result, str) or where.caught & IMPORT_ERRORS):
                ended = result
        return ended

    def _statement(self, node: ast.stmt, where: Where) -> Package | str:
        if isinstance(node, ast.Import):
            return self._import(node, where)
        if isinstance(node, ast.ImportFrom):
            return self._import_from(node, where)
        if isinstance(node, FUNCTIONS):
            self._define(node, where)
        elif isinstance(node, ast.ClassDef):
            self._class(node, where)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            self._assign(node, where)
        elif isinstance(node, ast.If):
            return self._if(node, where)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.expression(node.iter, where)
            self._bind(node.target, where)
            self._block(node.body, where)
            self._block(node.orelse, where)
        elif isinstance(node, ast.While):
            self.expression(node.test, where)
            known = self.truth(node.test, where)
            self._block(node.body, branch(where, known, taken=True))
            self._block(node.orelse, where)
        elif isinstance(node, ast.Try) or type(node).__name__ == "TryStar":
            return self._try(node, where)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            return self._with(node, where)
        elif isinstance(node, ast.Match):
            self.expression(node.subject, where)
            for case in node.cases:
                for pattern in ast.walk(case.pattern):
                    for name in (getattr(pattern, "name", None), getattr(pattern, "rest", None)):
                        if name:
                            where.scope.bind(name, None, None)
                if case.guard is not None:
                    self.expression(case.guard, where)
                self._block(case.body, replace(where, conditional=True))
        elif isinstance(node, ast.Assert):
            self.expression(node.test, where)
            known = self.truth(node.test, where)
            if known is not None:
                self.checks.branch(node.test, where, known, failing=not known.value)
            if node.msg is not None:
                self.expression(node.msg, where)
        elif isinstance(node, ast.Expr):
            if not isinstance(node.value, ast.Constant):  # a docstring
                self.expression(node.value, where)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.expression(child, where)
        return end_of(node, where.scope)

    def _import(self, node: ast.Import, where: Where) -> Package | str:
        failed: Package | str = ""
        for alias in node.names:
            self._note_import(alias.name, (), 0, node, where)
            failed = self.checks.imports(alias.name, node, where) or failed
            name = alias.asname or alias.name.partition(".")[0]
            path = alias.name if alias.asname else name
            where.scope.bind(name, path, None, sure=not (where.conditional or where.dead))
        return failed

    def _import_from(self, node: ast.ImportFrom, where: Where) -> Package | str:
        module = node.module or ""
        names = tuple(alias.name for alias in node.names)
        self._note_import(module, names, node.level, node, where)
        failed: Package | str = ""
        for alias in node.names:
            full = f"{module}.{alias.name}" if module else alias.name
            if not failed:
                failed = self.checks.imports("." * node.level + full, node, where) or failed
            path = full if node.level == 0 else None
            if alias.name != "*":
                sure = not (where.conditional or where.dead)
                known = node.level == 0 and self.facts_hold
                fact = of_name(full, where.scope) if known else None
                where.scope.bind(alias.asname or alias.name, path, fact, sure=sure)
        return failed

    def _note_import(
        self, module: str, names: tuple[str, ...], level: int, node: ast.stmt, where: Where
    ) -> None:
        sure = not (where.conditional or where.function)
        if not where.dead:
            owner = where.function.partition(".")[0]
            one = Imported(module, names, level, node.lineno, sure, where.caught, owner)
            self.imported.append(one)

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, where: Where) -> None:
        if node.value is not None:
            self.expression(node.value, where)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            # Flags such as torch.backends.cudnn.benchmark are names, too.
            if not isinstance(target, (ast.Name, ast.Tuple, ast.List)):
                self.assigned = node.value
                self.expression(target, where)
                self.assigned = None
            if isinstance(node, ast.AugAssign) or node.value is None:
                self._bind(target, where)
            else:
                self._bind(target, where, node.value)

    def _bind(self, target: ast.expr, where: Where, value: ast.expr | None = None) -> None:
        """Let the names of a target stand for a value."""
        if isinstance(target, ast.Starred):
            target, value = target.value, None
        if isinstance(target, (ast.Tuple, ast.List)):
            known = evaluate(value, where.scope) if value is not None and self.facts_hold else None
            values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else ()
            for number, item in enumerate(target.elts):
                if len(values) == len(target.elts):
                    self._bind(item, where, values[number])
                elif known is not None and isinstance(item, ast.Name) and known.why:
                    items = known.value if isinstance(known.value, tuple) else ()
                    fact = Fact(items[number], known.why) if number < len(items) else None
                    where.scope.bind(item.id, None, fact, sure=not where.conditional)
                else:
                    self._bind(item, where)
        elif isinstance(target, ast.Name) and not where.dead:
            path = None if value is None else dotted(value, where.scope)
            fact = None
            if value is not None and self.facts_hold:
                fact = evaluate(value, where.scope)
                if fact is not None and not fact.why:
                    fact = Fact(fact.value, where.because) if where.because else None
            where.scope.bind(target.id, path, fact, sure=not where.conditional)

    def _if(self, node: ast.If, where: Where) -> Package | str:
        self.expression(node.test, where)
        if not where.function and asks_for_main(node.test):
            self.is_program = True
            return self._block(node.body, where)
        known = self.truth(node.test, where)
        if known is not None:
            taken = node.body if known.value else node.orelse
            ends = next((inner for inner in taken if gives_up(inner, where.scope)), None)
            self.checks.branch(ends or node.test, where, known, failing=ends is not None)
        first = self._block(node.body, branch(where, known, taken=True))
        second = self._block(node.orelse, branch(where, known, taken=False))
        if known is None:
            return first if isinstance(first, str) and first and second else ""
        result = first if known.value else second
        return known.why if result and isinstance(result, str) else result

    def _try(self, node: Any, where: Where) -> Package | str:
        caught = frozenset(
            name
            for handler in node.handlers
            if not any(gives_up(statement, where.scope) for statement in handler.body)
            for name in caught_by(handler)
        )
        ended = self._block(node.body, replace(where, caught=where.caught | caught))
        failed = ended if isinstance(ended, Package) else None
        for handler in node.handlers:
            here = replace(where, conditional=True)
            if failed is not None and set(caught_by(handler)) & IMPORT_ERRORS:
                here = replace(where, because=f"{failed.name} is not there without CUDA")
            if handler.type is not None:
                self.expression(handler.type, where)
            if handler.name:
                where.scope.bind(handler.name, None, None)
            self._block(handler.body, here)
        dead = f"{failed.name} cannot be imported here" if failed is not None else ""
        self._block(node.orelse, replace(where, dead=where.dead or dead))
        self._block(node.finalbody, where)
        return ""

    def _with(self, node: ast.With | ast.AsyncWith, where: Where) -> Package | str:
        for item in node.items:
            self.expression(item.context_expr, where)
            if item.optional_vars is not None:
                self._bind(item.optional_vars, where)
            call = item.context_expr
            if isinstance(call, ast.Call) and dotted(call.func, where.scope) in (
                "contextlib.suppress",
                "pytest.raises",
            ):
                names = frozenset(last_name(argument) for argument in call.args)
                self._block(node.body, replace(where, caught=where.caught | names))
                return ""
        return self._block(node.body, where)

    # --- definitions ----------------------------------------------------------------------------

    def _define(self, node: ast.FunctionDef | ast.AsyncFunctionDef, where: Where) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator, where)
        self._defaults(node.args, where)
        where.scope.bind(node.name, None, None)
        self._later.append((node, where))

    def _defaults(self, arguments: ast.arguments, where: Where) -> None:
        for default in [*arguments.defaults, *arguments.kw_defaults]:
            if default is not None:
                self.expression(default, where)

    def _function(self, node: ast.AST, around: Where) -> None:
        assert isinstance(node, FUNCTIONS)
        scope = Scope(around.enclosing, body=node.body)
        for name in parameters(node.args):
            scope.bind(name, None, None)
        where = Where(
            scope,
            scope,
            function=f"{around.function}.{node.name}".lstrip("."),
            conditional=around.conditional,
            dead=around.dead,
        )
        self._block(node.body, where)

    def _class(self, node: ast.ClassDef, where: Where) -> None:
        for outer in [*node.decorator_list, *node.bases, *(k.value for k in node.keywords)]:
            self.expression(outer, where)
        where.scope.bind(node.name, None, None)
        scope = Scope(where.scope, body=node.body)
        inside = replace(where, scope=scope, function=f"{where.function}.{node.name}".lstrip("."))
        # The body runs where it stands; only its functions run later.
        body = replace(inside, function=where.function)
        for statement in node.body:
            if isinstance(statement, FUNCTIONS):
                self._define(statement, inside)
            else:
                self._statement(statement, body)

    # --- expressions ----------------------------------------------------------------------------

    def expression(self, node: ast.expr, where: Where) -> None:
        """Read an expression and what is below it.

        Args:
            node: The expression.
            where: What is known of its place.
        """
        if self.checks.expression(node, where, self):
            return
        if isinstance(node, ast.IfExp):
            known = self.truth(node.test, where)
            self.expression(node.test, where)
            if known is not None:
                self.checks.branch(node.test, where, known, failing=False)
            self.expression(node.body, branch(where, known, taken=True))
            self.expression(node.orelse, branch(where, known, taken=False))
        elif isinstance(node, ast.BoolOp):
            self._bool_op(node, where)
        elif isinstance(node, ast.Lambda):
            self._defaults(node.args, where)
            self.expression(node.body, inner(where, parameters(node.args)))
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            self._comprehension(node, where)
        elif isinstance(node, ast.NamedExpr):
            self.expression(node.value, where)
            self._bind(node.target, where, node.value)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.expression(child, where)
                elif isinstance(child, ast.keyword):
                    self.expression(child.value, where)

    def _bool_op(self, node: ast.BoolOp, where: Where) -> None:
        """What follows a false operand of `and`, or a true one of `or`, is not reached."""
        here = where
        for value in node.values:
            self.expression(value, here)
            known = self.truth(value, where)
            if known is None:
                here = replace(here, conditional=True)
            elif known.value is isinstance(node.op, ast.Or):
                here = replace(here, dead=here.dead or known.why)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, where: Where
    ) -> None:
        names = [
            name.id
            for generator in node.generators
            for name in ast.walk(generator.target)
            if isinstance(name, ast.Name)
        ]
        here = inner(where, names)
        for generator in node.generators:
            self.expression(generator.iter, where)
            for condition in generator.ifs:
                self.expression(condition, here)
        if isinstance(node, ast.DictComp):
            self.expression(node.key, here)
            self.expression(node.value, here)
        else:
            self.expression(node.elt, here)
