"""DPG-Bench's own judge, mPLUG by ModelScope: its model alone. The pipeline around it imports packages that Python 3.11 cannot."""

from protocol import serve

LONGEST = 25  # tokens of a question, as the pipeline has it
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's pictures


def load(paths):
    """See `protocol.serve`."""
    import torch
    from modelscope.models.multi_modal.mplug import MPlug
    from PIL import Image
    from torchvision import transforms
    from transformers import BertTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MPlug.from_pretrained(paths[""]).eval().to(device)
    tokenizer = BertTokenizer.from_pretrained(paths[""])
    side = model.config.image_res
    prepare = transforms.Compose(
        [transforms.Resize((side, side), interpolation=Image.BICUBIC), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )

    def work(request):
        image = prepare(Image.open(request["images"][0]).convert("RGB"))[None].to(device)
        answers = []
        for question in request["questions"]:
            words = tokenizer(question.lower(), padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt").to(device)
            with torch.no_grad():
                best, _ = model(image, words, train=False)
            answers.append(tokenizer.decode(best[0][0], skip_special_tokens=True))
        return answers

    return {"name": "mplug", "package": "modelscope"}, work


if __name__ == "__main__":
    serve(load)
