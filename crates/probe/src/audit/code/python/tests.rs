use report::audit::Severity;

use super::{Role, analyse, role};

fn rules(source: &str) -> Vec<&'static str> {
    analyse(source, Role::Loaded).acts.iter().map(|act| act.rule.id).collect()
}

#[test]
fn sinks_are_found_through_other_names() {
    for (source, rule) in [
        ("import subprocess as s\ns.run(['id'])", "CODE-001"),
        ("from subprocess import *\nPopen('id')", "CODE-001"),
        ("import os\nf = os.system\ng = f\ng('id')", "CODE-002"),
        ("import os\nlist(map(os.system, ['id']))", "CODE-002"),
        ("import os\n@os.system\ndef f(): pass", "CODE-002"),
        ("getattr(__import__('o' + 's'), 'sys' + 'tem')('id')", "CODE-002"),
        ("__import__('os').system('id')", "CODE-002"),
        ("import sys\nsys.modules['os'].system('id')", "CODE-002"),
        ("n = 'metsys'[::-1]\nimport os\ngetattr(os, n)('id')", "CODE-002"),
        ("import builtins as b\nb.__dict__['ev' + 'al']('1')", "CODE-007"),
        ("globals()['__builtins__']['exec']('1')", "CODE-006"),
        ("__builtins__.eval('1')", "CODE-007"),
        ("m = __import__(''.join(chr(c) for c in [111, 115]))\nm.system('id')", "CODE-002"),
        ("e, x = exec, 1\ne('1')", "CODE-006"),
        ("import socket\nsocket.socket().connect(('198.51.100.7', 1))", "CODE-003"),
        ("import urllib.request\nurllib.request.urlopen('http://x')", "CODE-004"),
        ("from importlib import import_module as i\ni(name)", "CODE-010"),
        ("().__class__.__bases__[0].__subclasses__()", "CODE-010"),
        ("import pickle\npickle.loads(b'')", "CODE-012"),
        ("import torch\ntorch.load('x', weights_only=False)", "CODE-012"),
        ("open('/root/.ssh/id_rsa').read()", "CODE-013"),
        ("from functools import partial\nimport os\npartial(os.system, 'id')()", "CODE-002"),
        ("import os\nx = (lambda: os.system)()('id')", "CODE-002"),
        ("import os\nclass A:\n  f = os.system", "CODE-002"),
        ("import os\ndef f(:\n  os.system('id')", "CODE-002"),
    ] {
        assert!(rules(source).contains(&rule), "{source}: {:?}", rules(source));
    }
}

#[test]
fn ordinary_code_has_no_sinks() {
    for source in [
        "import re\nre.compile('x')",
        "import torch\ntorch.compile(model)\nmodel.eval()\ntorch.load('x', weights_only=True)",
        "import ast\nast.literal_eval('1')",
        "import json, os\nos.path.join('a', 'b')\nos.environ['A'] = '1'",
        "def compile(x):\n  return x\ny = compile(1)",
        "from transformers import logging\nlogger = logging.get_logger(__name__)",
        "import socket\nhost = socket.gethostname()",
        "from urllib.parse import urlparse\nurlparse('http://x')",
        "import yaml\nyaml.safe_load('x')\nyaml.load('x', Loader=yaml.SafeLoader)",
        "dtype = getattr(torch, config.dtype)",
        "import numpy as np\nnp.load('x.npy')",
        "self.session.exec(x)\nparser.compile()\nself.eval()",
    ] {
        assert_eq!(rules(source), Vec::<&str>::new(), "{source}");
    }
}

#[test]
fn what_runs_on_import_is_worse() {
    let at = |source: &str, role| analyse(source, role).acts[0].severity;
    let top = "import os\nos.system(command)";
    let inside = "import os\ndef f():\n  os.system(command)";
    assert_eq!(at(top, Role::Loaded), Severity::Critical);
    assert_eq!(at(inside, Role::Loaded), Severity::High);
    assert_eq!(at(inside, Role::Script), Severity::Low);
    assert_eq!(at("import os\nos.system('curl http://x | sh')", Role::Script), Severity::Critical);
    assert_eq!(at("import os\ndef f(a=os.system(x)): pass", Role::Loaded), Severity::Critical);
}

#[test]
fn names_say_how_a_file_runs() {
    assert_eq!(role("modeling_x.py", ""), Role::Loaded);
    assert_eq!(role("handler.py", "if __name__ == '__main__': pass"), Role::Loaded);
    assert_eq!(role("train.py", ""), Role::Script);
    assert_eq!(role("utils.py", ""), Role::Module);
}

#[test]
fn deep_sources_do_not_overflow() {
    for source in [
        "(".repeat(100_000),
        "a.".repeat(50_000),
        "[".repeat(50_000) + &"]".repeat(50_000),
        "-".repeat(100_000),
    ] {
        let _ = analyse(&source, Role::Module);
    }
}
