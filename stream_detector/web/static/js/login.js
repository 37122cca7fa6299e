// Signing in: the token is sent once and kept nowhere; a cookie that scripts cannot read takes its place.
import { $, post } from "./dom.js";

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await post("/login", { token: $("token").value });
    location.assign("/");
  } catch (error) {
    $("why").className = "error";
    $("why").textContent = error.message;
    $("token").select();
  }
});
