// As much of a browser as the scripts' logic touches; how they draw is looked at by tests/browser.

/** Timers that fire when they are told to. */
export class Timers {
  constructor() {
    this.waiting = new Map();
    this.last = 0;
    this.setTimeout = (action, after) => {
      this.waiting.set(++this.last, { action, after });
      return this.last;
    };
    this.clearTimeout = (number) => this.waiting.delete(number);
  }

  /** How long each timer waits. */
  get waits() {
    return [...this.waiting.values()].map(({ after }) => after);
  }

  /** Fire the only timer there is. */
  fire() {
    const [[number, { action }]] = [...this.waiting];
    this.waiting.delete(number);
    return action();
  }
}

/** An element: attributes, children, listeners. */
export class Element {
  constructor(name = "div") {
    this.name = name;
    this.attributes = {};
    this.children = [];
    this.dataset = {};
    this.listeners = {};
    this.textContent = "";
    this.value = "";
    this.open = false;
    const classes = (this.classes = new Set());
    this.classList = {
      add: (one) => classes.add(one),
      toggle: (one, isOn) => (isOn ? classes.add(one) : classes.delete(one)),
    };
  }

  setAttribute(name, value) { this.attributes[name] = value; }
  getAttribute(name) { return this.attributes[name] ?? null; }
  removeAttribute(name) { delete this.attributes[name]; }
  hasAttribute(name) { return name in this.attributes; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  addEventListener(name, listener) { (this.listeners[name] ??= []).push(listener); }
  scrollIntoView() {}
  select() { this.isSelected = true; }
  showModal() { this.open = true; }
  close() { this.open = false; }

  /** Tell the listeners; whether the default was prevented. */
  tell(name, more = {}) {
    let isPrevented = false;
    const event = { target: this, ...more, preventDefault: () => (isPrevented = true) };
    for (const listener of this.listeners[name] ?? []) listener(event);
    return isPrevented;
  }
}

/** Let what is awaited go on. */
export const settled = () => new Promise((resolve) => setImmediate(resolve));
