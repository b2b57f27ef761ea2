// Clips that are heard: a line runs along with the sound, and a press plays from there.
for (const clip of document.querySelectorAll("[data-seconds]")) {
  const player = clip.querySelector("audio");
  const seconds = Number(clip.dataset.seconds);
  const follow = () => {
    clip.style.setProperty("--at", player.currentTime / seconds);
    if (!player.paused) requestAnimationFrame(follow);
  };
  player.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== player) other.pause();
    follow();
  });
  player.addEventListener("seeked", follow);
  for (const place of clip.querySelectorAll(".seek")) {
    place.addEventListener("click", (event) => {
      const box = place.getBoundingClientRect();
      const play = () => {
        player.currentTime = seconds * (event.clientX - box.left) / box.width;
        player.play().catch(() => {}); // another clip was begun at once
      };
      if (player.readyState) return play();
      player.addEventListener("loadedmetadata", play, { once: true });
      player.load();
    });
  }
}
