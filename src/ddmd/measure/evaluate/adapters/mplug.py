"""DPG-Bench's own judge, mPLUG by ModelScope."""

from protocol import serve


def load(paths):
    """See `protocol.serve`."""
    from modelscope.pipelines import pipeline
    from modelscope.utils.constant import Tasks
    from PIL import Image

    model = pipeline(Tasks.visual_question_answering, model=paths[""])

    def work(request):
        image = Image.open(request["images"][0]).convert("RGB")
        return [str(model({"image": image, "question": question})["text"]) for question in request["questions"]]

    return {"name": "mplug", "package": "modelscope"}, work


if __name__ == "__main__":
    serve(load)
