/** The icon of the pages, as SVG. */

/** The softmax of a row, above and below a threshold. */
export const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="6" fill="#1f3a5f"/><path d="M4 24C12 24 12 8 16 8s4 16 12 16" fill="none" stroke="#fff" stroke-width="3" stroke-linecap="round"/><path d="M4 16h24" stroke="#f2a65a" stroke-width="2" stroke-dasharray="3 3"/></svg>`;
