"""What holds for any bytes at all. One module per target, each with `check(data)`, which fails when it does not hold.

    parser      a stream of bytes means the same wherever it is cut, and only ProtocolError ends it
    broker      clients that send anything do no harm to a neighbour, and there is no defect
    requests    header blocks, JSON and subjects of one request: an answer, or Mq9Error

The same functions are driven three ways: by atheris (`python -m fuzz parser`), by Hypothesis in every run of the tests,
and with the inputs in `crashes/`, each of which once found a mistake.
"""
