#!/usr/bin/env python3
"""Makes tests/testdata/template/: what the jinja2 package makes of chat templates and of many small expressions.

Needs (PyPI): jinja2==3.1.6. Usage: make_template_golden.py OUTPUT_FOLDER [TEMPLATE_FILE...]

The package is set up as the transformers library sets it up for chat templates. families.jsonl holds a line
{"name", "source", "texts": [text or null where it fails, ...]} for each of the layouts in template_families.py, over
the lines of conversations.jsonl; snippets.jsonl holds a line [source, text or null] of small templates over the variables of
variables.json; none of both asks for the date. Further files named on the command line are rendered over the conversations and written to
others.jsonl. The result is the same on every run.
"""
import copy
import datetime
import functools
import itertools
import json
import pathlib
import random
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

import template_families


class Generation(jinja2.ext.Extension):
    """{% generation %}, which only marks what an assistant said."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller):
        return caller()


def environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                        extensions=[Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return made


@functools.lru_cache(maxsize=1)
def compiled(source):
    try:
        return ENVIRONMENT.from_string(source)
    except Exception:  # whatever fails, fails
        return None


def render(source, variables):
    template = compiled(source)
    try:
        return template and template.render(**copy.deepcopy(variables))  # some filters change lists
    except Exception:
        return None


ENVIRONMENT = environment()
VARIABLES = {
    "name": "Ada", "empty": "", "padded": "  two words \n", "accents": "Zażółć gęślą 中文 😀", "quote": "it's \"so\"",
    "lines": "one\ntwo\r\n\nfour\n", "csv": "a,b,,c", "html": "<b>&'\"", "digits": "042", "zero": 0, "n": 7,
    "minus": -3, "pi": 3.14159, "tiny": 1.5e-07, "huge": 1e22, "half": 2.5, "yes": True, "no": False, "nothing": None,
    "words": ["pear", "Apple", "fig", "apple"], "numbers": [3, 1, 2, 3], "nested": [[1, 2], [3], []], "none_list": [],
    "d": {"b": 2, "a": 1, "C": [1, {"x": None}], "keys": "own", "t": True, "f": 1.0},
    "people": [{"name": "Bo", "age": 31, "tags": ["x", "y"]}, {"name": "al", "age": 7},
               {"name": "Cy", "age": 31, "address": {"city": "Rome"}}],
    "mixed": [1, "1", 1.5, None, True, [1], {"k": 1}],
}

ATOMS = ["name", "empty", "accents", "zero", "n", "minus", "pi", "yes", "no", "nothing", "words", "numbers", "nested",
         "none_list", "d", "people", "missing", "'x'", "3", "2.5", "(1, 2)", "[1, 2]", "{'a': 1}"]
OPERATORS = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]

FILTERS = """trim upper lower capitalize title string safe length count first last list reverse items sort dictsort
unique min max sum int float abs round default d tojson e escape join indent wordcount tojson(indent=2) join(', ')
join(',','name') join(attribute='age') sort(reverse=true) sort(attribute='name') sort(attribute='age,name')
map('upper')|list map(attribute='name')|list map(attribute='address.city',default='?')|list map('length')|list
select|list select('string')|list reject('none')|list selectattr('age','gt',10)|list selectattr('tags')|list
rejectattr('tags','defined')|map(attribute='name')|join('+') selectattr('name','equalto','Bo')|first|tojson
replace('a','Q') replace('','-') replace('a','',1) trim('A ') default('D') default('D',true) default('D',boolean=true)
int(5) float(1.5) round(2) round(1,'floor') round(method='ceil') indent(2) indent(2,true) indent('> ',first=true,blank=true)
batch(2)|list batch(2,'-')|list center(9) truncate(3) truncate(9,true,'!',0) dictsort(by='value') dictsort(reverse=true)
unique(attribute='age')|map(attribute='name')|list attr('name') attr('upper') tojson(ensure_ascii=true) tojson(sort_keys=true)
tojson(separators=(',',':')) tojson(indent=0) format(1) max(attribute='age') min(attribute='name') sum(attribute='age')
first|upper list|length last|string reverse|list string|length items|list dictsort|list nofilter forceescape
map('default','z')|list list|join|upper sum(start=10)""".split()

TESTS = """defined undefined none boolean true false integer float number string mapping iterable sequence callable lower
upper odd even divisibleby(2) sameas(none) in([1,7,'Ada']) eq(7) equalto('Ada') ne(7) gt(2) ge(7) lt(2) le(7)
divisibleby(0) filter test sameas(true) notest""".split()

METHODS = """strip() lstrip() rstrip() strip('A ') strip('da') split() split(',') split(',',1) rsplit(',',1) split(none,1)
rsplit(none,1) split('') splitlines() splitlines(true) partition(',') rpartition('a') startswith('A') startswith(('x','A'))
endswith('a') endswith('') find('a') rfind('a') find('zz') index('zz') count('a') count('') replace('a','b') replace('a','b',1)
join(['x','y']) join([1]) removeprefix('A') removesuffix('a') ljust(5)|length rjust(5,'*') zfill(5) upper() lower() capitalize()
title() swapcase() isalpha() isdigit() isdecimal() isalnum() isspace() islower() isupper() isnumeric() upper.x nomethod()
get('a') get('zz') get('zz',5) get('keys') keys()|list values()|list items()|list items()|first keys copy() get pop('a')
update({}) append(1) index(3) count(3) clear() strip(1) split(1) get()""".split()

EXPRESSIONS = """1+2*3-4 -n -n**2 2**-1 2**3**2 7//2 -7//2 7%-3 -7%3 7.5%2 -7.5//2 1/3 10/2 0.1+0.2 1e16 1e15 123456789.0 1e-5
0.0001 1.0 100.0 -0.0 1e100 2.5e-10 3.0*2 n/2 n//2.0 true+true not_there.x not_there[0] not_there() name.x name.x.y name[0] name[-1] name[5]
name['x'] name[1:] name[:-1] name[::-1] name[::2] name[-2:] accents[7:9] accents[::-1] accents|length numbers[1:] numbers[::-1]
numbers[-1] numbers[9] numbers['x'] d.b d['b'] d.keys d['keys'] d.zz d['zz'] d.zz.y d[1] d.C[1].x d.C.1.x d.items()|list
nested[0][1] nested.0.1 (1,2)[0] (1,) () [] {} [1,[2]] {'a':[1,{'b':(1,2)}]} 'a' 'b' "it's" 'say "x"' 'a\\nb' '\\x41\\u00e9\\t\\\\' '\\q'
n_if_yes name~n~pi~yes~nothing~words 'a'*3 3*'ab' [1]*2 (1,2)+(3,) [1]+[2] [1]+(2,) 'a'+1 1+'a' name+nothing
'%s-%d'%('a',3) '%5.1f|%-4s|%04d|%x'%(pi,'z',n,255) '%s'%words '%%' '%(b)s %(a)03d'%d '%s' '%s %s'%(1,) 'x'%1 '%r'%('q',) '%+d'%n
1<2<3 1<2>3 3>2>1 1==1.0 true==1 'a'<'b' [1,2]<[1,3] 'a'<1 nothing<1 nothing==none words==words [1]==(1,) {'a':1}=={'a':1.0}
'a'in'abc' 1in[1.0] 'b'in d 'zz'in d none in mixed 1 not in numbers 'd' in name nothing in name 1 in 1
not yes not none_list not not name yes and n no or n empty or 'x' none_list and 1 n if yes n if no n if no else minus (n if no)|default('u')
n is odd and yes not n is even n is not none name is string is defined missing is defined missing is not defined d is mapping words is sequence
n in [1,7] and name in ['Ada'] [n,name,pi,yes,nothing] d words people mixed [missing] {'k':missing} missing missing~'x' range(3)|list
range(1,10,3)|list range(5,0,-2)|list range(0)|list range(3)[1] range(1,2,0) range(100001) range(2.0) dict(a=1,b='x') dict(d,z=1)|tojson dict([('a',1)])
namespace(a=1).a namespace(a=1).b namespace({'q':2}).q raise_exception('no') strftime_now(1) lipsum cycler 1_000 0x1F 0b101 0o17 1_0.5 .5 5. 00 07
name.upper().lower() name|upper|lower name|length>2 -name -pi +n - -n (-n)|abs -n|abs 'a,b'.split(',')[1] 'x'.join(words) words.0
''.__class__ name.__init__ d.__class__.__mro__ words.append name.format name['__class__'] d['__x'] d._x name._x
loop loop.index caller varargs true True none None False [1,2,] (1,2,) {'a':1,} [,] {1} (1 2) 1 2 a b 'abc 1+ *2 a. a[ a( {{ )
words|map('upper')|join(',') people|map(attribute='name')|sort|join(',') people|selectattr('age','==',31)|list|length (words|first).upper()
1.e5 1e5 1E5 'é' 'é'|length "é"[0] accents|upper accents|lower accents|title
name.split('d')|last numbers|sum/2 numbers|max+1 words|sort(case_sensitive=true) 'a'if yes else'b' [1,2][true] words[yes] {true:1}[1] {1:'a'}[1.0] d|length
pi|round|int pi|string|length 'True'|int '12'|int+1 '1.9'|int ' 5 '|int 'x'|int '1e3'|float '-2'|int '+3'|int '1_000'|int 3.99|int none|int
words is iterable 5 is iterable none is none missing is none missing|length missing|list missing|join missing+1 missing==missing missing|upper
huge tiny half|round 3.5|round 0.5|round -0.5|round 1234.5678|round(2) 2.675|round(2) n|round(1) half|int 1e300*1e10 tojson huge|tojson tiny|tojson
html|e html|escape|length quote quote|tojson accents|tojson [accents] [quote] lines|tojson {'é':'\\u2028'}|tojson '\\x7f\\x00'|tojson ['\\x7f\\x85\\xad']
d|tojson d|tojson(indent=2) people|tojson(indent=4) []|tojson(indent=2) {}|tojson(indent=2) [[]]|tojson(indent=1) d.items()|tojson {1:2,none:3,true:4}|tojson""".split("\n")

STATEMENTS = r"""{% for x in numbers %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}
{% for x in numbers %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}
{% for x in none_list %}a{% else %}none{% endfor %}|{% for x in missing %}a{% else %}m{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }}{% endfor %}{% for c in accents %}[{{ c }}]{% endfor %}
{% for x in numbers if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}
{% for x in numbers if x > 9 %}{{ x }}{% else %}nope{% endfor %}
{% for x in numbers %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in numbers %}{% for y in words %}{{ loop.depth }}{{ loop.depth0 }}{{ y[0] }}{% endfor %}{{ loop.depth }}{% endfor %}
{% for x in numbers %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}
{% for a, b in [1] %}{{ a }}{% endfor %}
{% for (a, b), c in [[[1, 2], 3]] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for x in range(3) %}{{ x }}{% endfor %}{{ x }}
{% for x in words|sort %}{{ x }}{{ ',' if not loop.last }}{% endfor %}
{% for x in numbers recursive %}{{ x }}{% endfor %}x{{ 1 +
{% set x = 1 %}{% for i in numbers %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1) %}{% for i in numbers %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}
{% set ns = namespace() %}{% set ns.a = 'v' %}{{ ns.a }}{{ ns.b }}{{ ns.b is defined }}
{% set name.x = 1 %}
{% set unknown.x = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set a, b = [1, 2, 3] %}{{ a }}
{% set x %}block {{ name }}{% endset %}[{{ x }}]{{ x is string }}
{% set x | upper | trim %}  block {{ name }} {% endset %}[{{ x }}]
{% set x = 1, 2 %}{{ x }}
{% if no %}a{% elif nothing %}b{% elif n %}c{% else %}d{% endif %}
{% if no %}a{% else %}d{% endif %}{% if n > 5 and name %}y{% endif %}
{% if missing %}a{% endif %}b
{% if n %}{% set z = 5 %}{% endif %}{{ z }}
{% macro m(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m() }}{{ m(b=1, a=0) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}
{% macro m(x) %}{{ caller(x) }}{% endmacro %}{% call(y) m(3) %}<{{ y }}{{ name }}>{% endcall %}
{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}in{% endcall %}{{ m() }}
{% macro f(i) %}{{ i }}{% if i > 0 %}{{ f(i - 1) }}{% endif %}{% endmacro %}{{ f(4) }}
{% macro outer() %}{% macro inner(x) %}[{{ x }}]{% endmacro %}{{ inner(1) }}{{ inner(2) }}{% endmacro %}{{ outer() }}
{% macro m() %}{{ late }}{% endmacro %}{% set late = 'now' %}{{ m() }}
{% for i in numbers %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}
{% macro m() %}{{ x }}{% endmacro %}{% for x in numbers %}{{ m() }}{% endfor %}
{{ m() }}{% macro m() %}a{% endmacro %}
{% macro m() %}x{% endmacro %}{{ m is callable }}{{ m() is string }}{{ m()|length }}
{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}
{% filter upper %}abc {{ name }}{% endfilter %}
{% filter trim | replace('a', 'b') %} aba {% endfilter %}|
{% generation %}gen {{ name }}{% endgeneration %}
{% raw %}{{ not run }}{% if %}{% endraw %}
{% raw -%}   a   {%- endraw %}b
a {# comment #} b {#- c -#} d
a
  {# alone #}
b
x {%- if yes -%}   y   {%- endif -%} z
x
  {% if yes %}
  y
  {% endif %}
z
x
  {%+ if yes %}
  y
  {%+ endif +%}
z
{{- ' a ' -}}   b   {{ 'c' }}
{{ name }}
a{{ '\n' }}
  {{ name -}}
b

{% for x in numbers %}
  - {{ x }}
{% endfor %}
end

a {% if yes %} b {% endif %} c
{%- for x in numbers %}
{{ x -}}
{%- endfor %}

{% if yes %}	tab{% endif %}
{% print n, name %}
{% do 1 %}
{% include 'x' %}
{% import 'x' as y %}
{% extends 'x' %}
{% unknown %}
{% endif %}
{% if yes %}
{% for x in numbers %}
{% if yes %}{% endfor %}
{% set %}
{% set x %}
{% set 5 = 1 %}
{% set true = 1 %}
{% for true in numbers %}{% endfor %}
{% break %}
{% macro m( %}{% endmacro %}
{% macro m(a=1, b) %}{% endmacro %}
{% call name() %}{% endcall %}
{% call name %}{% endcall %}
{{ name
{{ name }
{% if yes
{# open
{% raw %}open
{{ }}
{{ name | }}
{{ name is }}
{{ name. }}
{{ 'a }}
{{ (1 }}
{{ 1) }}
{{ [1 }}
{{ name ! }}
{{ name ? 1 }}
{{ $ }}
{{ 1 if }}
{{ f(a=1, 2) }}
{{ range(*[1, 4])|list }}{{ dict(**{'a': 1}) }}
{{ {'a': {'b': 1}} }}{{ {'a': {'b': 1}}['a']['b']}}
{% if name == 'Ada' and (n > 3 or no) %}ok{% endif %}
{% set x = {'role': name, 'n': [1, 2]} %}{{ x.role }}{{ x['n'][1] }}{{ x | tojson }}
{% set x = words | map('upper') | list %}{{ x[0] }}{{ x | length }}
{% set loop = 3 %}{{ loop }}
{%if yes%}a{%endif%}{{n}}{{-n}}{{+n}}
{% for m in people %}{% if loop.first %}{% set who = m.name %}{% endif %}{{ who }}{% endfor %}{{ who }}
{% for x in numbers -%}
  {{ x }}
{%- else -%}
  e
{%- endfor %}
{% if n is divisibleby 7 %}a{% endif %}{% if n is eq 7 %}b{% endif %}{{ n is in [7] }}
{% for i in numbers %}{% if i == 2 %}{% break %}{% else %}{{ i }}{% endif %}{% else %}never{% endfor %}
{{ people[0].name ~ people[1]['age'] }} {{ people[-1].address.city }} {{ people[1].address.city }}
{{ people[1].address is defined }} {{ people[1].address }}
{% set t = people | selectattr('name', 'equalto', 'Bo') | list %}{{ t[0].tags | join('/') }}
{{ "a" "b" 'c' }} {{ 'a' if no }} {{ ('a' if no) is defined }}
{% for x in [1, 2] %}{% set y = x %}{% endfor %}{{ y is defined }}
{{ lines.split('\n') }}{{ lines | indent(3) }}
{{ name
   | upper }}{{
  n
}}
{% set ns = namespace(found=false) %}{% for p in people %}{% if p.age == 7 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}
{% set ns = namespace(a=[]) %}{% for i in numbers %}{% set ns.a = ns.a + [i] %}{% endfor %}{{ ns.a }}{{ ns['a'] }}
{{ people | map(attribute='tags', default=[]) | list | tojson }}
{% for item in d | dictsort %}{{ item[0] }}:{{ item[1] }} {% endfor %}
{% for k, v in d | items %}{{ k }}{% endfor %}
{% for a in [1, 2, 3] | reverse %}{{ a }}{{ loop.length }}{% endfor %}
{% for a in numbers | unique %}{{ a }}{% endfor %}
{% for row in numbers | batch(2) %}{{ row }}{% endfor %}
{% for x in [[1, [2, 3]]] %}{% for a, b in [x] %}{{ a }}{{ b }}{% endfor %}{% endfor %}
"""


def statements():
    """Parts of STATEMENTS: each line alone, and each run of lines up to the next that begins without a brace."""
    lines = STATEMENTS.split("\n")
    yield from lines
    for size in (2, 3, 4, 5):
        for at in range(0, len(lines) - size, 2):
            yield "\n".join(lines[at:at + size])
    for line in lines:
        yield "  " + line + "\n"
        yield line.replace("%}", "-%}").replace("{{", "{{-")
        yield line.replace("{%", "\n {%").replace("%}", "%}\n ")
        yield line.replace("{%", "\r\n\t{%-").replace("}}", "-}}\n\n")


def snippets():
    for line in EXPRESSIONS:
        for size in (1, 2, 3, 4):
            parts = line.split(" ")
            for at in range(len(parts) - size + 1):
                yield "{{ " + " ".join(parts[at:at + size]) + " }}"
    pairs = list(itertools.product(ATOMS, OPERATORS, ATOMS))
    for a, operator, b in random.Random(1).sample(pairs, len(pairs) // 4):
        yield f"{{{{ {a} {operator} {b} }}}}"
    for a, name in itertools.product(ATOMS + ["padded", "lines", "csv", "html", "digits", "mixed", "half", "quote"], FILTERS):
        yield f"{{{{ {a}|{name} }}}}"
    for a, name in itertools.product(ATOMS + ["csv", "digits", "padded"], TESTS):
        yield f"{{{{ {a} is {name} }}}}"
    for a, name in itertools.product(["name", "empty", "accents", "padded", "lines", "csv", "digits", "numbers", "d", "words", "n"],
                                     METHODS):
        yield f"{{{{ {a}.{name} }}}}"
    yield from statements()


def shown_by_address(text):
    """What Python writes of functions and iterators changes from run to run."""
    return text is not None and (" at 0x" in text or "<function" in text or "<class" in text)


def snippet_lines():
    seen = set()
    for source in snippets():
        text = render(source, VARIABLES)
        if source in seen or shown_by_address(text) or (text is not None and len(text) > 2000):
            continue
        seen.add(source)
        yield json.dumps([source, text], separators=(",", ":")) + "\n"


def conversation_lines():
    for variables in template_families.conversations():
        yield json.dumps(variables, separators=(",", ":")) + "\n"


def family_lines(families):
    for name, source in families.items():
        texts = [render(source, variables) for variables in template_families.conversations()]
        yield json.dumps({"name": name, "source": source, "texts": texts}, separators=(",", ":")) + "\n"


def write(path, lines):
    path.write_text("".join(lines), encoding="ascii")
    print(path, path.stat().st_size)


def main(folder, others):
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "variables.json", [json.dumps(VARIABLES, indent=1) + "\n"])
    write(folder / "snippets.jsonl", snippet_lines())
    write(folder / "conversations.jsonl", conversation_lines())
    write(folder / "families.jsonl", family_lines(template_families.FAMILIES))
    if others:
        write(folder / "others.jsonl", family_lines({path: pathlib.Path(path).read_text("utf-8") for path in others}))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
