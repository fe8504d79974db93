"""HPS v3 by its own package (hpsv3 1.0.0); the mean of the two numbers that it gives."""

from protocol import serve


def load(paths):
    """See `protocol.serve`."""
    import tempfile
    from pathlib import Path

    import hpsv3
    import torch
    import yaml
    from hpsv3 import HPSv3RewardInferencer

    shipped = next(Path(hpsv3.__file__).parent.rglob("HPSv3_7B.yaml"))
    config = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    config["model_name_or_path"] = paths["base"]  # the package's own names the hub
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":  # its head is in float32, and only on a GPU does it bring the rest to that
        config |= {"torch_dtype": "float32", "bf16": False}
    local = Path(tempfile.mkdtemp()) / shipped.name
    local.write_text(yaml.safe_dump(config), encoding="utf-8")
    model = HPSv3RewardInferencer(config_path=str(local), checkpoint_path=paths[""], device=device)

    def work(request):
        with torch.no_grad():
            rewards = model.reward(prompts=request["prompts"], image_paths=request["images"])
        return [float(reward[0]) for reward in rewards]

    return {"name": "hps3", "package": "hpsv3 1.0.0"}, work


if __name__ == "__main__":
    serve(load)
