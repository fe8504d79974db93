// Zoom that keeps the pictures in step: all are enlarged about the same point.

const FACTOR = 3;

export class Zoom {
  constructor(button) {
    this.button = button;
    this.on = false;
    this.point = [50, 50];
    this.frames = [];
  }

  watch(frames) {
    this.frames = frames;
    this.point = [50, 50];
    for (const frame of frames) {
      for (const kind of ["pointerdown", "pointermove"]) frame.addEventListener(kind, (event) => this.follow(frame, event));
    }
    this.set(false);
  }

  follow(frame, event) {
    const box = frame.getBoundingClientRect();
    this.point = [clamp((100 * (event.clientX - box.left)) / box.width), clamp((100 * (event.clientY - box.top)) / box.height)];
    if (this.on) this.draw();
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
    for (const frame of this.frames) {
      frame.classList.toggle("zoomed", this.on); // a finger then moves the point, not the page
      const style = frame.firstElementChild.style;
      style.transformOrigin = `${this.point[0]}% ${this.point[1]}%`;
      style.transform = this.on ? `scale(${FACTOR})` : "none";
    }
  }
}

function clamp(value) {
  return Math.min(100, Math.max(0, value));
}
