"""The worker's end of the scorers' protocol: JSON lines on standard input and output; nothing but the standard library.

    -> {"open": {"": "/weights", "tokenizer": "/folder"}}       <- {"ready": true, "identity": {...}} or {"error": "..."}
    -> {"images": ["/a.png", ...], "prompts": ["...", ...]}     <- {"values": [1.5, ...]} or {"error": "..."}
    -> {"images": ["/a.png"], "questions": ["...", ...]}        <- {"values": ["yes", ...]}

Whatever the packages print goes to standard error.
"""

import json
import os
import sys
import traceback


def serve(load):
    """Answer until the input ends. `load(paths)` gives (identity, work), and work(request) the values of one request."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # packages print where they like
    work = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "open" in request:
                identity, work = load(request["open"])
                reply = {"ready": True, "identity": identity}
            else:
                reply = {"values": list(work(request))}
        except Exception as error:  # told to the other side, which stops
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(reply) + "\n")
