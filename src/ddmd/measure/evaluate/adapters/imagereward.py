"""ImageReward by its own package (image-reward 1.5); standardised rewards."""

from protocol import serve


def load(paths):
    """See `protocol.serve`."""
    import ImageReward.models.BLIP.blip_pretrain as pretrain
    import torch
    from ImageReward.ImageReward import ImageReward
    from transformers import BertTokenizer

    def words(*_):  # the package asks the hub for this one
        tokenizer = BertTokenizer.from_pretrained(paths["tokenizer"])
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        tokenizer.enc_token_id = tokenizer.additional_special_tokens_ids[0]
        return tokenizer

    pretrain.init_tokenizer = words
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ImageReward(device=device, med_config=paths["config"]).to(device)
    model.load_state_dict(torch.load(paths[""], map_location="cpu", weights_only=True), strict=False)
    model.eval()

    def work(request):
        with torch.no_grad():
            return [float(model.score(prompt, image)) for image, prompt in zip(request["images"], request["prompts"])]

    return {"name": "imagereward", "package": "image-reward 1.5"}, work


if __name__ == "__main__":
    serve(load)
