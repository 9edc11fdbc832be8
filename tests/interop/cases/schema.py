"""The JSON Schema of the configuration, in the hands of a validator that is not ours."""

import json
import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

# Reads the schema and the names of files, and prints the errors in each.
VALIDATOR = """
import json, sys, tomllib, jsonschema
schema = json.loads(sys.stdin.read())
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
errors = lambda file: [f"{error.json_path}: {error.message}" for error in validator.iter_errors(tomllib.load(open(file, "rb")))]
print(json.dumps({file: errors(file) for file in sys.argv[1:]}))
"""

# Mistakes of keys, types and words. What a value says is not the schema's to know.
REFUSED = ["unknown_keys", "key_in_the_wrong_table", "booleans", "unknown_words", "table_for_list", "list_for_table", "bare_durations",
           "sizes_of_ten", "include_of_one"]


def the_schema_takes_the_configurations_that_remora_takes(lab):
    """The reference, the minimal one, one with every key, and what `remora init` and `remora config` write; and no frequent mistakes."""
    taken = [REPOSITORY / "config" / "full.toml", REPOSITORY / "config" / "minimal.toml", REPOSITORY / "tests/suggestions/every_key.toml"]
    written = [lab.folder / "init.toml", lab.folder / "printed.toml"]
    _remora("init", "--node", "emqx1=10.0.0.11:1883", "--websocket", "--out", str(written[0]))
    written[1].write_text(_remora("config", str(taken[0])))
    found = _errors(taken + written)
    assert len(found) == 5 and not any(found.values()), found


def the_schema_refuses_mistakes_of_keys_types_and_words(lab):
    """Files that `remora check` refuses for what an editor can know."""
    files = [REPOSITORY / "tests/config" / f"{name}.toml" for name in REFUSED]
    found = _errors(files)
    assert len(found) == len(REFUSED) and all(found.values()), found


def _remora(*arguments):
    run = subprocess.run([os.environ["REMORA_BIN"], *arguments], capture_output=True, text=True, timeout=30)
    assert run.returncode == 0, run.stderr
    return run.stdout


def _errors(files):
    """The validator's errors in each file, by its path."""
    python = Path(os.environ["JSONSCHEMA"]) / "bin" / "python"
    schema = _remora("config", "--schema")
    command = [str(python), "-c", VALIDATOR, *map(str, files)]
    run = subprocess.run(command, input=schema, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
