// Zoom that keeps the images of a row in step: all are enlarged about the same point.

const FACTOR = 3;

export class Zoom {
  constructor(button) {
    this.button = button;
    this.on = false;
    this.point = [50, 50];
  }

  watch(frames) {
    this.frames = frames;
    for (const frame of frames) {
      frame.addEventListener("pointermove", (event) => {
        const box = frame.getBoundingClientRect();
        this.point = [(100 * (event.clientX - box.left)) / box.width, (100 * (event.clientY - box.top)) / box.height];
        this.draw();
      });
    }
    this.set(false);
  }

  set(on) {
    this.on = on;
    this.button.setAttribute("aria-pressed", String(on));
    this.draw();
  }

  move(dx, dy) {
    this.point = [clamp(this.point[0] + dx), clamp(this.point[1] + dy)];
    this.draw();
  }

  draw() {
    for (const frame of this.frames ?? []) {
      const style = frame.firstElementChild.style;
      style.transformOrigin = `${this.point[0]}% ${this.point[1]}%`;
      style.transform = this.on ? `scale(${FACTOR})` : "none";
    }
  }
}

function clamp(value) {
  return Math.min(100, Math.max(0, value));
}
