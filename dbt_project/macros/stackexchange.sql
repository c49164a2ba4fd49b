{# A comment without the `@name` (or several) that it begins with: whom it is addressed to says nothing of an interest. #}
{% macro without_mentions(column) -%}
    regexp_replace({{ column }}, '^\s*(@[^\s@]+([\s,:]+|$)([-–—]\s+)?)+', '')
{%- endmacro %}
